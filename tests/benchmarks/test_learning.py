"""Learning curves are made from a service's runs, and shown where they belong."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from benchmarks import curves, learning
from benchmarks.cases import CASES, PAGES, Case, Task
from trainyard import process

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_can_be_trained(case: Case) -> None:
    spec = resolve(ExperimentSpec.model_validate(case.spec))
    if case.algorithm.get("preset") != "auto":
        given = spec.algorithm.model_dump(mode="json")
        assert given | case.algorithm == given
    assert any(case.method in page.own for page in PAGES.values())


def test_runs_become_curves_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"evaluate_every": 512, "evaluation_episodes": 2, "checkpoint_every": 1024}
    task = Task("tiny", "CartPole-v1", training, episodes=3)
    cliff = Task("cliff", "CliffWalking-v1", training, judged="final", exact=True, episodes=2, lowest=-60.0)
    tiny = Case(task, "pqn", 2_048, {"name": "pqn"}, bar=9.0, seeds=2)
    table = Case(cliff, "q_learning", 1_024, {"name": "q_learning", "epsilon_end": 0.1}, bar=1.0, seeds=2)
    monkeypatch.setattr(learning, "CASES", cases := {case.name: case for case in (tiny, table)})
    monkeypatch.setattr(curves, "CASES", cases)
    docs = tmp_path / "docs"

    def said(*arguments: str, status: int = 0) -> str:
        assert learning.main(arguments) == status
        return capsys.readouterr().out

    with process.service(tmp_path / "data", tmp_path / "log") as url:
        nothing = said("collect", "--url", url, "--docs", str(docs), status=1)
        assert nothing.count("not posted") == 2
        assert said("post", "--url", url, "--cases", "tiny-*").count("posted") == 1
        assert said("post", "--url", url).count("posted") == 1
        said("collect", "--wait", "--url", url, "--docs", str(docs))
        assert said("collect", "--url", url, "--docs", str(docs)).count("before") == 2
        assert said("post", "--url", url).count("succeeded") == 2

    result: dict[str, Any] = json.loads((docs / "results" / "tiny-pqn.json").read_text())
    assert result["curve"]["env_steps"] == [512, 1024, 1536, 2048]
    assert [len(seed) for seed in result["curve"]["returns"]] == [4, 4]
    assert len(result["returns"]) == 2 and min(result["returns"]) >= 8
    assert result["seconds"] > 0
    (docs / "algorithms").mkdir()
    (docs / "algorithms" / "pqn.md").write_text("# PQN\n")
    assert "pqn.md does not show pqn-tiny.svg" in said("draw", "--docs", str(docs))
    text = (docs / "results.md").read_text()
    assert re.search(r"^\| \[pqn\]\(results/tiny-pqn\.json\) \| 2,048 \| 9 \| [012] of 2 \| ", text, re.MULTILINE)
    assert re.search(r"^\| \[q_learning\].* \| 1 \| 0 of 2 \| ", text, re.MULTILINE)
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert "env steps" in (docs / name).read_text()


def test_no_answer_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    for command in (["post"], ["collect", "--docs", str(tmp_path)]):
        assert learning.main([*command, "--url", url]) == 1
        assert capsys.readouterr().err.startswith(f"{url} does not answer")


def test_pages_show_their_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, once every case has been collected, and no others."""
    shutil.copytree(DOCS / "algorithms", tmp_path / "algorithms", ignore=shutil.ignore_patterns("*.svg"))
    (tmp_path / "results").mkdir()
    for name, case in CASES.items():
        seeds = range(case.seeds)
        result = {
            "spec": case.spec,
            "processor": "any",
            "jobs": 1,
            "threads": 1,
            "seconds": 1.0,
            "returns": [float(seed) for seed in seeds],
            "curve": {"env_steps": [1, case.env_steps], "returns": [[0.0, float(seed)] for seed in seeds]},
        }
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
    curves.draw(tmp_path)
    assert capsys.readouterr().out == ""
    pages = [tmp_path / "results.md", *(tmp_path / "algorithms").glob("*.md")]
    shown = {page: re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()) for page in pages}
    for page, pictures in shown.items():
        assert all((page.parent / picture).exists() for picture in pictures), page
    assert len(shown[pages[0]]) == len({case.task.name for case in CASES.values()})
    for name in PAGES:
        assert (tmp_path / "algorithms" / f"{name}.md").exists(), name


def test_what_is_shown_is_what_was_collected(tmp_path: Path) -> None:
    """By the results as they would be drawn now, and each picture by its page."""
    if (DOCS / "results").exists():
        shutil.copytree(DOCS / "results", tmp_path / "results")
        curves.draw(tmp_path)
        assert (DOCS / "results.md").read_text() == (tmp_path / "results.md").read_text()
        results = {path.stem for path in (tmp_path / "results").iterdir()}
        assert results <= set(CASES)
    drawn = {path.name for path in (tmp_path / "algorithms").glob("*")}
    assert {path.name for path in (DOCS / "algorithms").glob("*.svg")} == drawn
    for name in drawn:
        page = DOCS / "algorithms" / f"{name.split('-')[0]}.md"
        assert f"({name})" in page.read_text(), name
