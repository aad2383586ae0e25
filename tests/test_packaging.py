"""What is installed where: images do what the Makefile does, extras hold what they say, nothing is left unpinned."""

import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.source import imported, parsed

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SECRETS = {"TRAINYARD_API_KEY", "POSTGRES_PASSWORD", "VALKEY_PASSWORD"}


def stages() -> dict[str, list[list[str]]]:
    """Stage -> its instructions as words, with the build arguments at their defaults, those of its parents first."""
    found: dict[str, list[list[str]]] = {}
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    arguments: dict[str, str] = {}
    stage = ""
    for line in lines:
        words = shlex.split(re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], m[0]), line))
        if words[0] == "ARG":
            name, _, default = words[1].partition("=")
            arguments[name] = default
        elif words[0] == "FROM":
            stage = words[3]
            found[stage] = list(found.get(words[1], []))
        else:
            found[stage].append([word for word in words if not word.startswith("--mount=")])
    return found


def installs(instructions: list[list[str]]) -> list[list[str]]:
    """The commands that install something."""
    return [words[1:] for words in instructions if words[0] == "RUN" and words[1].endswith("pip")]


def make_steps(*variables: str) -> list[list[str]]:
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", "install", "VENV=/opt/venv", *variables]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [words for words in map(shlex.split, output.splitlines()) if words[0].endswith("pip")]


def required(*extras: str) -> set[str]:
    """Names of everything that ``trainyard[extras]`` brings along, as far as it is installed here."""
    optional = PROJECT["optional-dependencies"]
    queue = [Requirement(text) for text in PROJECT["dependencies"]]
    queue += [Requirement(text) for extra in extras for text in optional[extra]]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name == "trainyard":
                queue += [Requirement(text) for text in optional[extra]]
                continue
            try:
                texts = requires(name) or []
            except PackageNotFoundError:
                continue
            nested = map(Requirement, texts)
            queue += [
                r for r in nested if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in (extra, ""))
            ]
    return {name for name, _ in seen} - {"trainyard"}


class TestImages:
    def test_the_api_image_installs_what_make_installs(self) -> None:
        expected = make_steps("TORCH=", "EXTRAS=api,postgres", "EDITABLE=")
        assert installs(stages()["api-build"]) == expected
        assert len(expected) == 1

    def test_the_worker_image_installs_what_make_installs(self) -> None:
        expected = make_steps("EXTRAS=worker,postgres", "EDITABLE=")
        assert installs(stages()["worker-build"]) == expected
        assert len(expected) == 2

    def test_a_build_argument_chooses_the_build_of_torch(self) -> None:
        text = (ROOT / "Dockerfile").read_text()
        assert 'ARG TORCH_ARGS=""' in text
        assert make_steps("EXTRAS=worker", "TORCH_ARGS=--pre")[0][2:] == [
            "--pre",
            "-c",
            "constraints.txt",
            "torch==2.13.0",
        ]

    @pytest.mark.parametrize("target", ["api", "worker"])
    def test_targets_run_unprivileged_and_say_whether_they_are_well(self, target: str) -> None:
        instructions = stages()[target]
        users = [words[1] for words in instructions if words[0] == "USER"]
        assert users[-1].split(":")[0] not in ("0", "root")
        assert any(words[0] == "HEALTHCHECK" for words in instructions)

    def test_what_is_copied_is_let_through(self) -> None:
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        for instructions in stages().values():
            for words in instructions:
                if words[0] == "COPY" and not words[1].startswith("--from"):
                    assert set(words[1:-1]) <= allowed
        assert all((ROOT / name).exists() for name in allowed)

    def test_the_linter_has_nothing_to_say(self) -> None:
        subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], check=True)


class TestCompose:
    def test_it_fits_the_schema(self) -> None:
        command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
        subprocess.run(command, check=True)

    def test_it_has_no_default_secrets(self) -> None:
        text = (ROOT / "docker-compose.yml").read_text()
        uses = re.findall(r"\$\{(\w+)(:\?|:-|\})", text)
        assert {name for name, form in uses if form == ":?"} == SECRETS
        assert not {name for name, form in uses if form != ":?"} & SECRETS
        for service in COMPOSE["services"].values():
            for name, value in service.get("environment", {}).items():
                if name in SECRETS or name.endswith("_AUTH"):
                    assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)

    def test_every_service_is_watched(self) -> None:
        services = COMPOSE["services"]
        built = stages()
        for name, service in services.items():
            if "build" in service:
                target = service["build"]["target"]
                watched = any(words[0] == "HEALTHCHECK" for words in built[target])
            else:
                watched = "test" in service["healthcheck"]
            assert watched, name

    def test_nothing_starts_before_the_migrations(self) -> None:
        for name in ("api", "worker", "worker-gpu"):
            needs = COMPOSE["services"][name]["depends_on"]
            assert needs["migrations"]["condition"] == "service_completed_successfully"
        assert COMPOSE["services"]["migrations"]["restart"] == "no"

    def test_the_gpu_worker_is_opt_in_and_reserves_its_devices(self) -> None:
        worker = COMPOSE["services"]["worker-gpu"]
        assert worker["profiles"] == ["gpu"]
        (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert set(worker["environment"]["TRAINYARD_QUEUES"].split(",")) == {"default", "gpu"}
        assert all("profiles" not in s for name, s in COMPOSE["services"].items() if name != "worker-gpu")

    def test_only_the_api_is_published_and_only_on_loopback(self) -> None:
        published = {name: s["ports"] for name, s in COMPOSE["services"].items() if "ports" in s}
        assert published == {"api": ["${TRAINYARD_PUBLISH:-127.0.0.1:8000}:8000"]}

    def test_every_setting_exists(self) -> None:
        from app.settings import Settings

        known = {f"TRAINYARD_{name.upper()}" for name in Settings.model_fields}
        for name, service in COMPOSE["services"].items():
            used = {key for key in service.get("environment", {}) if key.startswith("TRAINYARD_")}
            assert used <= known, name

    def test_volumes_are_declared(self) -> None:
        mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
        assert {mount.split(":")[0] for mount in mounts} == set(COMPOSE["volumes"])


class TestDependencies:
    def test_the_client_needs_an_http_library_and_nothing_else(self) -> None:
        assert [Requirement(text).name for text in PROJECT["dependencies"]] == ["httpx"]

    def test_the_api_has_no_torch(self) -> None:
        names = required("api", "postgres")
        assert {"fastapi", "onnxruntime", "psycopg-binary"} <= names
        assert not names & {"torch", "gymnasium", "mujoco", "onnx"}

    def test_the_worker_has_no_web_framework(self) -> None:
        names = required("worker", "postgres")
        assert {"torch", "gymnasium", "mujoco", "box2d"} <= names
        assert not names & {"fastapi", "uvicorn"}

    @pytest.mark.parametrize(
        ("folder", "extras"),
        [("app", ("api", "embedded")), ("worker", ("worker", "atari", "minatar")), ("trainyard", ("worker",))],
    )
    def test_what_is_imported_is_declared(self, folder: str, extras: tuple[str, ...]) -> None:
        optional = PROJECT["optional-dependencies"]
        texts = PROJECT["dependencies"] + [text for extra in (*extras, "service") for text in optional[extra]]
        declared = {canonicalize_name(Requirement(text).name) for text in texts}
        declared |= {"anyio", "kombu", "starlette"}  # their own users' interfaces: FastAPI and Celery hand them out
        owners = packages_distributions()
        known = sys.stdlib_module_names | {"app", "worker", "trainyard"}
        for path, tree in parsed(folder):
            for line, module in imported(tree):
                top = module.split(".")[0]
                fits = top in known or {canonicalize_name(name) for name in owners[top]} & declared
                assert fits, f"{path}:{line} imports {module}"

    def test_everything_is_pinned(self) -> None:
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
        assert required("dev") <= pinned

    def test_no_registry_is_named(self) -> None:
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        host = re.compile(r"(?:index-url|find-links)[= ]+https?:|pypi\.(?:org|python)|pythonhosted|download\.pytorch")
        for name in tracked.split():
            if name != "tests/test_packaging.py" and (ROOT / name).suffix not in {".png", ".onnx", ".gz"}:
                assert not host.search((ROOT / name).read_text()), name


class TestDistribution:
    @pytest.fixture(scope="class")
    @classmethod
    def names(cls, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
        folder = tmp_path_factory.mktemp("wheel")
        source = folder / "source"
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in tracked.split():
            if name.startswith(("app/", "worker/", "trainyard/")) or "/" not in name:
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes((ROOT / name).read_bytes())
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            folder,
            source,
        ]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            return set(wheel.namelist())

    def test_data_files_travel(self, names: set[str]) -> None:
        assert "app/schemas/environments.json" in names
        assert "trainyard/py.typed" in names
        for folder in ("app", "worker", "trainyard"):
            missing = {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py")} - names
            tracked = subprocess.run(
                ["git", "ls-files", *missing], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert not missing or not tracked.stdout.split()
        assert any(name.startswith("app/db/migrations/versions/") for name in names)

    def test_nothing_else_does(self, names: set[str]) -> None:
        assert {name.split("/")[0].split("-")[0] for name in names} == {"app", "worker", "trainyard"}


class TestChecks:
    def test_make_check_runs_every_check(self) -> None:
        command = ["make", "--dry-run", "--no-print-directory", "check"]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert all(tool in output for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports"))

    def test_ci_runs_check_and_test(self) -> None:
        script = ROOT / ".ci" / "run"
        assert script.stat().st_mode & 0o111
        assert [line.split()[-1] for line in script.read_text().splitlines() if line.startswith("make")] == [
            "install",
            "check",
            "test",
        ]


class TestImports:
    @pytest.mark.parametrize("module", ["app.main", "trainyard.cli"])
    def test_importing_loads_no_torch(self, module: str) -> None:
        code = f"import sys, {module}; assert not {{'torch', 'gymnasium', 'worker'}} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
