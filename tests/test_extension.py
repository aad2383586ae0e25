"""Adding an algorithm touches two files: a config class and a module. Done here to a copy of the house, and run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADDED = ROOT / "tests" / "extension"
CONFIGS = "app/schemas/algorithms.py"
MODULE = "worker/rl/algorithms/vpg.py"
UNION = "AnyAlgorithm = Annotated["

TRAIN = """
from app.schemas.experiment import ExperimentSpec, resolve
from worker.rl.drivers import train
from worker.rl.reporter import MemoryReporter

spec = resolve(ExperimentSpec.model_validate({
    "environment": {"id": "CartPole-v1"}, "algorithm": {"name": "vpg"},
    "training": {"total_env_steps": 60_000}, "seeds": [0, 1, 2]}))
reporter = MemoryReporter([0, 1, 2])
train(spec, [0, 1, 2], reporter)
best = sorted(result.best_return for _, result, _ in reporter.finished.values())
assert best[1] > 100, best
"""


def test_an_algorithm_is_two_files(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for part in ("app", "worker", "tests/rl"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    for part in ("pyproject.toml", "tests/conftest.py", "tests/postgres.py"):
        shutil.copy(ROOT / part, tmp_path / part)

    shutil.copy(ADDED / "vpg.py", tmp_path / MODULE)
    configs = tmp_path / CONFIGS
    before, after = configs.read_text().split(UNION)
    configs.write_text(before + (ADDED / "config.txt").read_text() + UNION + "VPG | " + after)

    changed = {
        str(path.relative_to(tmp_path))
        for part in ("app", "worker")
        for path in (tmp_path / part).rglob("*.py")
        if not (original := ROOT / path.relative_to(tmp_path)).exists() or original.read_bytes() != path.read_bytes()
    }
    assert changed == {CONFIGS, MODULE}

    _run(tmp_path, "-c", TRAIN)
    _run(tmp_path, "-m", "pytest", "-q", "tests/rl/test_conformance.py", "-k", "vpg", "-p", "no:cacheprovider")


def _run(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "no tests ran" not in done.stdout
