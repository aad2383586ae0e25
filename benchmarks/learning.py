"""``python -m benchmarks.learning``: the learning curves and results of the documentation, from runs of a service.

``post`` sends the experiments of the cases (`cases.py`), ``collect`` takes over HTTP what they have come to, and plays
the policies again, ``draw`` makes pictures and tables of it. Each can be repeated, and does what is left to do.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from app.schemas.experiment import ExperimentSpec
from benchmarks.cases import CASES, Case
from benchmarks.curves import draw
from benchmarks.judge import play
from benchmarks.service import seconds
from trainyard import Client, TrainyardError
from trainyard.client import TERMINAL, Json
from trainyard.progress import failures

DOCS = Path(__file__).parents[1] / "docs"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description="Learning curves for docs/.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    remote = argparse.ArgumentParser(add_help=False)
    remote.add_argument("--url", required=True, help="of the service that trains")
    remote.add_argument(
        "--cases", nargs="+", default=["*"], help="names or patterns, such as 'cartpole-*'; default: all"
    )
    post_parser = commands.add_parser("post", parents=[remote], help="post experiments that there are none of yet")
    post_parser.add_argument("--again", action="store_true", help="and of those that there are")
    collect_parser = commands.add_parser("collect", parents=[remote], help="take what has finished")
    collect_parser.add_argument("--wait", action="store_true", help="wait for what has not")
    draw_parser = commands.add_parser("draw", help="pictures and tables of what has been collected")
    for command in (collect_parser, draw_parser):
        command.add_argument("--docs", type=Path, default=DOCS, help="default: docs")
    arguments = parser.parse_args(argv)
    if arguments.command == "draw":
        draw(arguments.docs)
        return 0
    cases = [case for case in CASES.values() if any(fnmatch(case.name, wanted) for wanted in arguments.cases)]
    if not cases:
        parser.error(f"no case is called that; there are: {', '.join(CASES)}")
    try:
        with Client(arguments.url, key=os.environ.get("TRAINYARD_API_KEY")) as client:
            if arguments.command == "post":
                post(client, cases, again=arguments.again)
                return 0
            missing = collect(client, cases, arguments.docs / "results", wait=arguments.wait)
    except TrainyardError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if missing else 0


def post(client: Client, cases: Sequence[Case], *, again: bool = False) -> None:
    """Post each case's experiment, unless there is one that may still succeed or has."""
    for case in cases:
        found = None if again else _experiment(client, case)
        if found is None or found["status"] in TERMINAL - {"succeeded"}:
            print(f"{case.name}: {client.create(case.spec)['id']}, posted")
        else:
            print(f"{case.name}: {found['id']}, {found['status']}")


def collect(client: Client, cases: Sequence[Case], folder: Path, *, wait: bool) -> list[str]:
    """Write a file for each case whose newest experiment has succeeded; the names of the others."""
    missing = []
    for case in cases:
        experiment = _experiment(client, case)
        path = folder / f"{case.name}.json"
        if experiment and wait:
            for run in experiment["runs"]:
                client.wait(run["id"])
            experiment = client.experiment(experiment["id"])
        if experiment is None or experiment["status"] != "succeeded":
            missing.append(case.name)
            print(f"{case.name}: {_why(client, experiment)}", flush=True)
        elif path.exists() and json.loads(path.read_text())["experiment"] == experiment["id"]:
            print(f"{case.name}: collected before")
        else:
            result = collected(client, case, experiment)
            lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()]
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
            print(f"{case.name}: {result['returns']}", flush=True)
    return missing


def collected(client: Client, case: Case, experiment: Json) -> dict[str, Any]:
    """What a succeeded experiment has come to, in numbers.

    ``curve`` holds the returns of evaluations, (seeds, evaluations); ``returns`` those of the judged checkpoints over
    fresh episodes, by seed; ``seconds`` how long each job trained, evaluations and checkpoints included.
    """
    spec = ExperimentSpec.model_validate(experiment["spec"])
    runs = [client.run(run["id"]) for run in experiment["runs"]]
    curves = [_curve(client, run["id"]) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    returns = [play(spec.environment, _bundle(client, case, run), case.task.episodes).mean() for run in runs]
    attempts = [attempt for run in runs for attempt in client.attempts(run["id"])["data"]]
    trained = {
        (each["job_id"], each["attempt"]): seconds(each["ended_at"]) - seconds(each["started_at"]) for each in attempts
    }
    return {
        "experiment": experiment["id"],
        "spec": experiment["spec"],
        "processor": attempts[-1]["facts"]["processor"],
        "jobs": len({each["job_id"] for each in attempts}),
        "threads": attempts[-1]["facts"]["threads"],
        "seconds": round(sum(trained.values()), 1),
        "returns": [round(float(value), 3) for value in returns],
        "curve": {"env_steps": steps, "returns": [[round(curve[step], 2) for step in steps] for curve in curves]},
    }


def _experiment(client: Client, case: Case) -> Json | None:
    """The newest of the case's name."""
    found: Sequence[Json] = client.experiments(name=case.name, limit=1)["data"]
    return found[0] if found else None


def _why(client: Client, experiment: Json | None) -> str:
    """Why there is nothing to collect."""
    if experiment is None:
        return "not posted"
    bad = failures([client.run(run["id"]) for run in experiment["runs"]])
    return "; ".join([f"{experiment['id']}, {experiment['status']}", *bad])


def _curve(client: Client, run_id: str) -> dict[int, float]:
    """Mean return of every evaluation that has one, by env step."""
    series = client.series(run_id, "evaluation/return_mean")
    points = zip(series["step"], series["value"], strict=True)
    return {step: value for step, value in points if value is not None}


def _bundle(client: Client, case: Case, run: Mapping[str, Any]) -> dict[str, bytes]:
    """The policy to be judged."""
    checkpoint = run["result"]["best_checkpoint_id"]
    if case.task.judged == "final":
        newest = client.checkpoints(run["id"])["data"]
        checkpoint = next(each["id"] for each in newest if each["kind"] == "final")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("policy.onnx", "bundle.json"):
            client.download(checkpoint, name, Path(folder) / name)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


if __name__ == "__main__":
    sys.exit(main())
