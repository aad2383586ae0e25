"""Checkpoints: listed, read, and their files downloaded whole or in part."""

import hashlib
from typing import NamedTuple

import httpx
import pytest

from app.db.engine import Database
from app.db.repositories import training
from app.settings import Settings
from tests.api.conftest import ON_BOTH
from tests.api.helpers import assert_problem, create, scene
from tests.db.scene import Scene

CONTENT = bytes(range(256)) * 3000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Kept(NamedTuple):
    job: Scene
    attempt: int
    checkpoint_id: str

    @property
    def url(self) -> str:
        return f"/v1/checkpoints/{self.checkpoint_id}/files/policy.onnx"


def store(settings: Settings, job: Scene, attempt: int, env_steps: int, names: tuple[str, ...]) -> str:
    path = f"runs/{job.run_id}/a{attempt}/{env_steps}"
    folder = settings.artifacts_dir / path
    folder.mkdir(parents=True)
    for name in names:
        if "/" not in name:
            (folder / name).write_bytes(CONTENT)
    with job.database.writing() as session:
        stored = training.add_checkpoint(
            session,
            job_id=job.job_id,
            attempt=attempt,
            run_id=job.run_id,
            env_steps=env_steps,
            kind="scheduled",
            return_mean=3.5,
            path=path,
            files=[{"name": name, "bytes": len(CONTENT), "sha256": SHA} for name in names],
            keep=10,
        )
    return stored.id


@pytest.fixture
def kept(client: httpx.Client, database: Database, settings: Settings) -> Kept:
    """A running job whose first run has a checkpoint with files."""
    job = scene(database, create(client))
    attempt = job.begin()
    names = ("policy.onnx", "bundle.json", "../../../../secret.txt")
    (settings.data_dir / "secret.txt").write_text("secret")
    return Kept(job, attempt, store(settings, job, attempt, 100, names))


@ON_BOTH
def test_read_and_list(client: httpx.Client, settings: Settings, kept: Kept) -> None:
    second = store(settings, kept.job, kept.attempt, 200, ("policy.onnx",))
    page = client.get(f"/v1/runs/{kept.job.run_id}/checkpoints?limit=1").json()
    assert [row["id"] for row in page["data"]] == [second]
    assert page["has_more"] is True
    page = client.get(f"/v1/runs/{kept.job.run_id}/checkpoints?after={second}").json()
    assert [row["id"] for row in page["data"]] == [kept.checkpoint_id]
    assert client.get(f"/v1/runs/{kept.job.run_id}/checkpoints?kind=best").json()["data"] == []
    checkpoint = client.get(f"/v1/checkpoints/{kept.checkpoint_id}").json()
    assert checkpoint == page["data"][0]
    assert checkpoint["run_id"] == kept.job.run_id
    assert (checkpoint["env_steps"], checkpoint["kind"], checkpoint["return_mean"]) == (100, "scheduled", 3.5)
    assert checkpoint["files"][0] == {"name": "policy.onnx", "bytes": len(CONTENT), "sha256": SHA}


class TestDownload:
    def test_whole(self, client: httpx.Client, kept: Kept) -> None:
        answer = client.get(kept.url)
        assert answer.status_code == 200
        assert answer.content == CONTENT
        assert answer.headers["content-length"] == str(len(CONTENT))
        assert answer.headers["etag"] == f'"{SHA}"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="policy.onnx"'
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [
            ("bytes=0-0", 0, 0),
            ("bytes=10-19", 10, 19),
            ("Bytes = 10 - 19", 10, 19),
            ("bytes=1000-", 1000, len(CONTENT) - 1),
            ("bytes=-5", len(CONTENT) - 5, len(CONTENT) - 1),
            ("bytes=5-99999999999", 5, len(CONTENT) - 1),
            ("bytes=-99999999999", 0, len(CONTENT) - 1),
        ],
    )
    def test_part(self, client: httpx.Client, kept: Kept, asked: str, first: int, last: int) -> None:
        answer = client.get(kept.url, headers={"Range": asked})
        assert answer.status_code == 206
        assert answer.content == CONTENT[first : last + 1]
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
        assert answer.headers["content-length"] == str(last - first + 1)

    @pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=9999999999-99999999999", "bytes=-0"])
    def test_beyond_the_end(self, client: httpx.Client, kept: Kept, asked: str) -> None:
        answer = client.get(kept.url, headers={"Range": asked})
        assert_problem(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"

    @pytest.mark.parametrize(
        "asked",
        [
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "items=0-5",
            "bytes=0-1,5-6",
            "bytes=5-2",
            "bytes=--1",
            "bytes=0-" + "9" * 500,
        ],
    )
    def test_ranges_not_understood_get_the_whole(self, client: httpx.Client, kept: Kept, asked: str) -> None:
        answer = client.get(kept.url, headers={"Range": asked})
        assert answer.status_code == 200
        assert answer.content == CONTENT

    def test_range_only_of_the_same_file(self, client: httpx.Client, kept: Kept) -> None:
        headers = {"Range": "bytes=0-9", "If-Range": f'"{SHA}"'}
        assert client.get(kept.url, headers=headers).status_code == 206
        assert client.get(kept.url, headers=headers | {"If-Range": '"other"'}).status_code == 200

    @pytest.mark.parametrize("known", [f'"{SHA}"', f'W/"{SHA}"', f'"other", "{SHA}"', "*"])
    def test_not_modified(self, client: httpx.Client, kept: Kept, known: str) -> None:
        answer = client.get(kept.url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")

    @pytest.mark.parametrize(
        "name",
        [
            "nothing.txt",
            "..%2f..%2fetc%2fpasswd",
            "../../../../secret.txt",
            "..%2F..%2F..%2F..%2Fsecret.txt",
            "%2e%2e",
            "policy.onnx%00",
            "POLICY.ONNX",
            "./policy.onnx%2F",
            "%ff",
        ],
    )
    def test_names_are_looked_up(self, client: httpx.Client, kept: Kept, name: str) -> None:
        answer = client.get(f"/v1/checkpoints/{kept.checkpoint_id}/files/{name}")
        assert_problem(answer, 404)
        assert "secret" not in answer.text.replace("secret.txt", "")

    def test_a_file_that_is_gone(self, client: httpx.Client, settings: Settings, kept: Kept) -> None:
        (settings.artifacts_dir / f"runs/{kept.job.run_id}/a1/100/policy.onnx").unlink()
        assert "policy.onnx" in assert_problem(client.get(kept.url), 410)["detail"]

    @pytest.mark.parametrize("content", [CONTENT[:-1], b"\1" + CONTENT[1:]], ids=["cut", "flipped"])
    def test_a_damaged_file_is_not_sent(
        self, client: httpx.Client, settings: Settings, kept: Kept, content: bytes
    ) -> None:
        (settings.artifacts_dir / f"runs/{kept.job.run_id}/a1/100/policy.onnx").write_bytes(content)
        problem = assert_problem(client.get(kept.url), 500)
        assert problem["type"].endswith(":damaged") and "policy.onnx is damaged" in problem["detail"]

    def test_head_is_get_without_the_file(self, client: httpx.Client, kept: Kept) -> None:
        answer, whole = client.head(kept.url, headers={"Range": "bytes=0-9"}), client.get(kept.url)
        assert (answer.status_code, answer.content) == (200, b"")
        assert {**answer.headers, "date": ""} == {**whole.headers, "date": ""}
        assert client.head(kept.url, headers={"If-None-Match": f'"{SHA}"'}).status_code == 304
        assert client.head(kept.url + "x").status_code == 404

    def test_of_nothing(self, client: httpx.Client) -> None:
        assert_problem(client.get("/v1/checkpoints/ckpt_nope"), 404)
        assert_problem(client.get("/v1/checkpoints/ckpt_nope/files/policy.onnx"), 404)
