"""Settings refuse what would be unsafe."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from app.db.migrate import migrate
from app.services.sweep import GONE_SECONDS
from app.settings import Settings, is_loopback, messages
from tests.source import parsed

KEY = "k5Fq-81hPz.Ttu27_wVgR"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "trainyard.example", ""])
def test_only_loopback_without_a_key(host: str) -> None:
    with pytest.raises(ValidationError, match="TRAINYARD_API_KEY"):
        Settings(host=host)
    assert Settings(host=host, api_key=KEY).hosts is None


def test_a_live_worker_beats_before_it_counts_as_gone() -> None:
    longest = Settings(lease_seconds=60).lease_seconds
    assert longest / 3 < GONE_SECONDS
    with pytest.raises(ValidationError, match="lease_seconds"):
        Settings(lease_seconds=61)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_key(host: str) -> None:
    settings = Settings(host=host)
    assert settings.hosts is not None
    assert {"localhost", "127.0.0.1", "::1", host} == settings.hosts


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "changeme-changeme-changeme",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "with space in the key!",
        "schlüssel-mit-umlaut",
    ],
)
def test_weak_keys(key: str) -> None:
    with pytest.raises(ValidationError, match="TRAINYARD_API_KEY") as caught:
        Settings(api_key=key)
    assert key not in str(caught.value)


def test_hosts_beyond_loopback_need_a_key() -> None:
    with pytest.raises(ValidationError, match="ALLOWED_HOSTS"):
        Settings(allowed_hosts=("*",))
    allowed = Settings(allowed_hosts=("a.example", "B.example"), host="10.0.0.7", api_key=KEY).hosts
    assert allowed is not None
    assert {"a.example", "b.example", "10.0.0.7", "127.0.0.1", "localhost", "::1"} == allowed


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(Settings(api_key=KEY))


def test_defaults_lie_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/trainyard.db"
    assert settings.artifacts_dir == tmp_path / "artifacts"


@pytest.mark.parametrize("name", ["q?1", "a%20b", "ü %41 ?x#y&z"])
def test_the_database_lies_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    settings = Settings(data_dir=tmp_path / name)
    settings.data_dir.mkdir()
    assert make_url(settings.database_url).database == str(settings.data_dir / "trainyard.db")
    migrate(settings.database_url)
    assert (settings.data_dir / "trainyard.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_messages_name_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_SLOTS", "many")
    monkeypatch.setenv("TRAINYARD_DEVICES", "gpu")
    with pytest.raises(ValidationError) as caught:
        Settings()
    slots, devices = messages(caught.value)
    assert slots.startswith("TRAINYARD_SLOTS: Input should be a valid integer")
    assert devices == "TRAINYARD_DEVICES: 'gpu' is neither cpu nor cuda:N"
    monkeypatch.undo()
    with pytest.raises(ValidationError) as caught:
        Settings(host="0.0.0.0")
    assert messages(caught.value)[0].startswith("listening on 0.0.0.0 needs TRAINYARD_API_KEY")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_QUEUES", "default, gpu")
    monkeypatch.setenv("TRAINYARD_DEVICES", "cuda:0,cuda:1")
    settings = Settings()
    assert settings.queues == ("default", "gpu")
    assert settings.devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("host", "answer"), [("localhost", True), ("127.0.0.1", True), ("[::1]", True), ("8.8.8.8", False), ("a.b", False)]
)
def test_is_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


@pytest.mark.parametrize(
    "command",
    ["worker", "worker.health", "app.db.migrate", "app.embedded", "uvicorn --factory app.main:create_app --port 0"],
)
def test_every_process_names_what_is_wrong_a_line_each(command: str) -> None:
    wrong = {"TRAINYARD_SLOTS": "many", "TRAINYARD_DEVICES": "gpu"}
    ended = subprocess.run(
        [sys.executable, "-m", *command.split()], env=os.environ | wrong, capture_output=True, text=True, check=False
    )
    assert ended.returncode in (1, 2)
    slots, devices = sorted((ended.stdout + ended.stderr).splitlines(), reverse=True)
    assert slots.startswith("trainyard: TRAINYARD_SLOTS: Input should be a valid integer")
    assert devices == "trainyard: TRAINYARD_DEVICES: 'gpu' is neither cpu nor cuda:N"


def test_one_place_writes_urls_of_sqlite_files() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in parsed("app", "worker", "trainyard", "benchmarks")
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        and isinstance(first := node.values[0], ast.Constant)
        and str(first.value).startswith("sqlite:")
    ]
    assert found == []
