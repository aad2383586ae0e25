"""The documentation is true: its commands run, its links lead somewhere, every setting and target is named."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.schemas.algorithms import algorithms
from app.settings import Settings
from trainyard import process

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with process.service(folder / "data", folder / "log") as url:
        yield url


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the guide is written for curl")
def test_the_guide_works_as_it_stands(url: str, tmp_path: Path) -> None:
    script = "set -euxo pipefail\n" + "\n".join(blocks(ROOT / "docs" / "guide.md", "bash"))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"BASE": url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (tmp_path / "policy.onnx").stat().st_size > 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert re.findall(r"\((0\d{3}-[\w-]+\.md)\)", index) == records
    for name in records:
        text = (folder / name).read_text()
        assert text.startswith(f"# {int(name[:4])}. ")
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences"))


def test_every_algorithm_is_documented() -> None:
    """By a row with its paper and its page; every page is linked."""
    text = (ROOT / "docs" / "algorithms.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(algorithms/\1\.md\) \|.*?\(([^)]+)\)", text, re.MULTILINE)
    assert dict(rows) == {name: config.about(name).paper for name, config in algorithms().items()}
    pages = {path.name for path in (ROOT / "docs" / "algorithms").glob("*.md")}
    assert set(re.findall(r"\(algorithms/(\w+\.md)\)", text)) == pages


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"^\| .*", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    names = {name for line in documented for name in re.findall(r"`TRAINYARD_(\w+)`", line.split("|")[1])}
    assert names == {name.upper() for name in Settings.model_fields}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bmake (\w+)[`\n ]", "\n".join(_code(page)))) <= targets, page


def _code(page: Path) -> list[str]:
    """What a page shows as code."""
    text = page.read_text()
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) + re.findall(r"`[^`\n]+`", text)
