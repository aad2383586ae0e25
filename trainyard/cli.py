"""The ``trainyard`` command."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainyard import process
from trainyard.client import DEFAULT_URL, Client, Json, ServiceUnreachable, TrainyardError
from trainyard.demo import demo
from trainyard.progress import failures, watch


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except TrainyardError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trainyard: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainyard", description="Train deep-RL agents over HTTP.")
    commands = parser.add_subparsers(required=True, metavar="command")

    up = commands.add_parser("up", help="run the whole service here until Ctrl-C: API, worker, broker, SQLite")
    up.add_argument("--host", help="address to listen on (127.0.0.1; others need TRAINYARD_API_KEY)")
    up.add_argument("--port", help="port to listen on (8000; 0 takes a free one)")
    up.add_argument("--data-dir", help="where everything is kept (./.trainyard)")
    up.set_defaults(command=_up)

    show = commands.add_parser("demo", help="start the service, train four seeds, play an episode, stop")
    show.add_argument("--data-dir", type=Path, default=Path(".trainyard/demo"), help="default: .trainyard/demo")
    show.add_argument("--env-steps", type=int, default=100_000, help="length of each of the four runs (100000)")
    show.set_defaults(command=_demo)

    remote = argparse.ArgumentParser(add_help=False)
    remote.add_argument("--url", default=os.environ.get("TRAINYARD_URL", DEFAULT_URL), help="default: $TRAINYARD_URL")
    remote.add_argument("--key", default=os.environ.get("TRAINYARD_API_KEY"), help="default: $TRAINYARD_API_KEY")

    run = commands.add_parser("run", parents=[remote], help="start the experiment of a spec")
    run.add_argument("spec", type=Path, help="a JSON file, or - for standard input")
    run.add_argument("--watch", action="store_true", help="show progress until all runs have ended")
    run.set_defaults(command=_run)

    again = commands.add_parser("watch", parents=[remote], help="show the progress of an experiment's runs")
    again.add_argument("experiment", help="exp_...")
    again.set_defaults(command=_watch)

    cancel = commands.add_parser("cancel", parents=[remote], help="cancel an experiment's runs that have not ended")
    cancel.add_argument("experiment", help="exp_...")
    cancel.set_defaults(command=_cancel)

    runs = commands.add_parser("runs", parents=[remote], help="list runs, newest first")
    runs.add_argument("--experiment", help="only those of this experiment")
    runs.add_argument("--status", help="only those in this state")
    runs.add_argument("--limit", type=int, default=20)
    runs.set_defaults(command=_runs)

    act = commands.add_parser("act", parents=[remote], help="ask a run's policy for an action")
    act.add_argument("run", help="run_...")
    act.add_argument("observation", type=_observation, help="JSON, e.g. '[0, 0.1, 0, 0]'")
    act.add_argument("--checkpoint", help="default: the best one")
    act.set_defaults(command=_act)
    return parser


def _observation(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"an observation is JSON, e.g. '[0, 0.1, 0, 0]': {error}") from error


def _up(arguments: argparse.Namespace) -> NoReturn:
    options = {"--host": arguments.host, "--port": arguments.port, "--data-dir": arguments.data_dir}
    process.replace([word for name, value in options.items() if value is not None for word in (name, value)])


def _demo(arguments: argparse.Namespace) -> int:
    demo(arguments.data_dir, arguments.env_steps)
    return 0


def _client(arguments: argparse.Namespace) -> Client:
    return Client(arguments.url, key=arguments.key)


def _run(arguments: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if str(arguments.spec) == "-" else arguments.spec.read_text()
        spec = json.loads(text)
    except (OSError, ValueError) as error:
        raise TrainyardError(f"cannot read the spec: {error}") from error
    with _client(arguments) as client:
        experiment = client.create(spec)
        print(experiment["id"])
        return _follow(client, experiment) if arguments.watch else 0


def _watch(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        return _follow(client, client.experiment(arguments.experiment))


def _cancel(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.cancel_experiment(arguments.experiment)
    print(f"{arguments.experiment}: its runs end soon, each with a last checkpoint")
    return 0


def _command(name: str, client: Client, experiment: Json) -> str:
    return f"{process.shell_command()} {name} {experiment['id']} --url {client.url}"


def _follow(client: Client, experiment: Json) -> int:
    """Show an experiment's runs until all have ended; 1 if any of them did not succeed."""
    again = f"To watch it again:\n  {_command('watch', client, experiment)}"
    try:
        watch(client, experiment["runs"], int(experiment["spec"]["training"]["total_env_steps"]))
        bad = failures([client.wait(run["id"]) for run in experiment["runs"]])
    except ServiceUnreachable as error:
        raise TrainyardError(f"{error}\n{experiment['id']} goes on without being watched. {again}") from error
    except KeyboardInterrupt:
        cancel = f"To cancel it:\n  {_command('cancel', client, experiment)}"
        print(f"\n{experiment['id']} goes on. {again}\n{cancel}", file=sys.stderr)
        return 130
    print("\n".join(bad), end="\n" if bad else "", file=sys.stderr)
    return 1 if bad else 0


def _runs(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        page = client.runs(experiment_id=arguments.experiment, status=arguments.status, limit=arguments.limit)
    for run in page["data"]:
        progress = run["progress"]
        done = f"{progress['env_steps']:,} / {progress['total_env_steps']:,}"
        print(f"{run['id']}  {run['experiment_id']}  seed {run['seed']:<4} {run['status']:<10} {done:>25}")
    return 0


def _act(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        print(json.dumps(client.policy(arguments.run, checkpoint=arguments.checkpoint)(arguments.observation)))
    return 0
