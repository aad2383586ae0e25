"""A small synchronous client of the HTTP API.

TrainyardError          what this module raises
├── ServiceUnreachable  no answer: nothing listens, or the connection broke
└── Problem             the service refused, and says why (RFC 9457)
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from trainyard.policy import RemotePolicy
from trainyard.sse import Event, parse

DEFAULT_URL = "http://127.0.0.1:8000"
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States that a run or an experiment never leaves."""
PASSING = frozenset({429, 502, 503, 504})
"""Statuses of a service that is starting, stopping or busy, or of a proxy before one."""
PATIENCE_SECONDS = 60.0
"""How long a service that has answered before may be away, as when it restarts, before a stream or a wait gives up."""

Json = dict[str, Any]


class TrainyardError(Exception):
    """What this client raises."""


class ServiceUnreachable(TrainyardError):
    """There was no answer."""


class Problem(TrainyardError):
    """The service's refusal: ``status``, ``title``, ``detail`` and the fields at fault."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.title = str(body.get("title", "error"))
        self.detail = str(body.get("detail") or "")
        self.errors: list[Json] = list(body.get("errors") or [])
        named = [
            ": ".join(str(error[name]) for name in ("pointer", "message") if error.get(name)) for error in self.errors
        ]
        repeats = any(line in self.detail for line in named)  # a detail may be the first of the errors
        first = f"{status} {self.title}" + (f": {self.detail}" if self.detail and not repeats else "")
        super().__init__("\n  ".join([first, *named]))


class Client:
    """Talks to one service. Methods return the API's JSON as it is.

    Raises:
        TrainyardError: from every method; from the constructor for a URL or a key that cannot be one.
    """

    def __init__(self, url: str = DEFAULT_URL, *, key: str | None = None, timeout: float = 30.0) -> None:
        if not _is_service(url):
            raise TrainyardError(f"{url!r} is not the URL of a service, which looks like {DEFAULT_URL}")
        if key and not re.fullmatch(r"[!-~]+", key):
            raise TrainyardError("the API key is not one: keys are printable ASCII characters without spaces")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._answered = False

    @property
    def url(self) -> str:
        """Where the service is."""
        return str(self._http.base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Experiments

    def create(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Start an experiment; the same key with the same spec gives the same one."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._call("POST", "/v1/experiments", json=spec, headers=headers)

    def experiment(self, experiment_id: str) -> Json:
        """One experiment with its runs."""
        return self._call("GET", f"/v1/experiments/{experiment_id}")

    def experiments(self, *, name: str | None = None, limit: int | None = None, after: str | None = None) -> Json:
        """A page of experiments (of exactly that name), newest first: ``{data, has_more}``."""
        return self._call("GET", "/v1/experiments", params=_given(name=name, limit=limit, after=after))

    def cancel_experiment(self, experiment_id: str) -> Json:
        """Cancel every run that is still active."""
        return self._call("POST", f"/v1/experiments/{experiment_id}/cancel")

    # Runs

    def run(self, run_id: str) -> Json:
        """One run: state, progress, latest metrics, result."""
        return self._call("GET", f"/v1/runs/{run_id}")

    def runs(
        self,
        *,
        experiment_id: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Json:
        """A page of runs, newest first: ``{data, has_more}``."""
        params = _given(experiment_id=experiment_id, status=status, limit=limit, after=after)
        return self._call("GET", "/v1/runs", params=params)

    def act_on(self, run_id: str, verb: str) -> Json:
        """``cancel`` (soon, with a last checkpoint), ``kill`` (at once), ``pause`` or ``resume`` a run."""
        return self._call("POST", f"/v1/runs/{run_id}/{verb}")

    def wait(self, run_id: str) -> Json:
        """The run once its state is terminal. A service that answered before may be away for a minute."""
        patience = _Patience()
        while True:
            try:
                run = self._call("GET", f"/v1/runs/{run_id}", headers={"Prefer": "wait=20"})
            except TrainyardError as error:
                self._bear(error, patience)
                continue
            patience = _Patience()
            if run["status"] in TERMINAL:
                return run

    def metrics(self, run_id: str) -> Json:
        """Keys of a run with their number of points and latest values."""
        return self._call("GET", f"/v1/runs/{run_id}/metrics")

    def series(self, run_id: str, key: str, *, max_points: int = 1000) -> Json:
        """One metric over env steps, in at most ``max_points`` buckets."""
        return self._call("GET", f"/v1/runs/{run_id}/series", params={"key": key, "max_points": max_points})

    def stream(self, run_id: str, *, last_event_id: str | None = None) -> Iterator[Event]:
        """Live events of a run until ``done``.

        A broken connection is taken up again where it broke. A service that answered before may be away for a minute.
        """
        patience = _Patience()
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
            timeout = httpx.Timeout(10.0, read=60.0)
            try:
                with self._http.stream("GET", f"/v1/runs/{run_id}/stream", headers=headers, timeout=timeout) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _problem(answer)
                    self._answered, patience = True, _Patience()
                    for event in parse(answer.iter_lines()):
                        last_event_id = event.id or last_event_id
                        yield event
                        if event.type == "done":
                            return
            except Problem as error:
                self._bear(error, patience)
            except httpx.TransportError as error:
                if self._http.is_closed:
                    return
                self._bear(self._unreachable(error), patience)
            else:
                time.sleep(_Patience.FIRST_PAUSE)

    def attempts(self, run_id: str) -> Json:
        """Attempts to train a run, oldest first: where, when, on what."""
        return self._call("GET", f"/v1/runs/{run_id}/attempts")

    # Checkpoints and actions

    def checkpoints(self, run_id: str) -> Json:
        """Checkpoints of a run with their files and digests."""
        return self._call("GET", f"/v1/runs/{run_id}/checkpoints")

    def download(self, checkpoint_id: str, name: str, target: Path) -> None:
        """One file of a checkpoint, written to ``target``: the whole of it as it was stored, or nothing."""
        partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", f"/v1/checkpoints/{checkpoint_id}/files/{name}") as answer:
                if answer.is_error:
                    answer.read()
                    raise _problem(answer)
                with partial.open("xb") as file:
                    for block in answer.iter_bytes():
                        file.write(block)
                        digest.update(block)
            if answer.headers.get("ETag") != f'"{digest.hexdigest()}"':
                raise TrainyardError(f"{name} of {checkpoint_id} is damaged: it is not what its digest says")
            partial.replace(target)
        except httpx.RequestError as error:
            raise ServiceUnreachable(f"{self.url} did not send all of {name}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def actions(
        self,
        run_id: str,
        observations: Sequence[Any],
        *,
        checkpoint: str | None = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> list[Any]:
        """One action per observation, from the run's best (or a named) checkpoint."""
        body = {"observations": list(observations), "deterministic": deterministic}
        return list(self._act(run_id, body | _given(checkpoint=checkpoint, seed=seed))["actions"])

    def policy(self, run_id: str, *, checkpoint: str | None = None, deterministic: bool = True) -> RemotePolicy:
        """The run's policy as a function from observation to action."""
        options = {"deterministic": deterministic} | _given(checkpoint=checkpoint)
        return RemotePolicy(lambda asked: self._act(run_id, asked | options))

    def _act(self, run_id: str, body: Json) -> Json:
        return self._call("POST", f"/v1/runs/{run_id}/actions", json=body)

    # Service

    def ready(self) -> bool:
        """Whether the service answers and is ready to take work."""
        try:
            return self._http.get("/readyz", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            request = self._http.build_request(method, path, **arguments)
        except (TypeError, ValueError) as error:
            raise TrainyardError(f"this cannot be sent as JSON, where numbers are finite: {error}") from error
        try:
            answer = self._http.send(request)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _problem(answer)
        self._answered = True
        body = _object(answer)
        if body is None:
            raise TrainyardError(f"{answer.url} answers, but not as Trainyard does: is something else running there?")
        return body

    def _unreachable(self, error: httpx.RequestError) -> ServiceUnreachable:
        return ServiceUnreachable(f"{self.url} does not answer: {error}")

    def _bear(self, error: TrainyardError, patience: "_Patience") -> None:
        """Pause after an error that may pass; raise any other, or when patience has run out."""
        passing = isinstance(error, ServiceUnreachable) or (isinstance(error, Problem) and error.status in PASSING)
        if not (self._answered and passing and patience.pause()):
            raise error


class _Patience:
    """How long a service is waited for: pauses that double up to five seconds, ``PATIENCE_SECONDS`` in all."""

    FIRST_PAUSE = 0.5

    def __init__(self) -> None:
        self._pause = self.FIRST_PAUSE
        self._end: float | None = None

    def pause(self) -> bool:
        """Sleep before the next try; False once the time is over."""
        now = time.monotonic()
        self._end = self._end or now + PATIENCE_SECONDS
        if now >= self._end:
            return False
        time.sleep(min(self._pause, self._end - now))
        self._pause = min(2 * self._pause, 5.0)
        return True


def _is_service(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host) and (address.port or 0) < 2**16


def _given(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _problem(answer: httpx.Response) -> Problem:
    body = _object(answer)
    return Problem(answer.status_code, body or {"title": answer.reason_phrase, "detail": answer.text[:500]})


def _object(answer: httpx.Response) -> Json | None:
    """The JSON object of an answer; None if it is none."""
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
