"""Settings, from ``TRAINYARD_*`` environment variables. What would be unsafe to run with is refused at start-up."""

import ipaddress
import re
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import quote

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_KEY_LENGTH = 16
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_PLACEHOLDERS = ("changeme", "change-me", "secret", "password", "example", "default", "trainyard", "your-key")


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file, whatever characters its path has."""
    return "sqlite:///" + quote(str(path), safe=" /")


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


class Settings(BaseSettings):
    """One object, read once and passed on. Lists are comma-separated in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="TRAINYARD_",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # the key is among them
        use_attribute_docstrings=True,
    )

    data_dir: Path = Field(Path(".trainyard"), validate_default=True)
    database_url: str = Field(default_factory=lambda data: sqlite_url(data["data_dir"] / "trainyard.db"))
    """SQLAlchemy URL; SQLite in ``data_dir`` unless given."""
    database_pool_size: int = Field(16, ge=2, le=200)
    """Connections of one process; the API runs as many routes at once."""
    broker_url: str | None = None
    """Redis or Valkey; None: the embedded one, or no doorbell at all (the sweepers still find the work)."""
    artifacts_dir: Path = Field(default_factory=lambda data: data["data_dir"] / "artifacts")
    """Folder of checkpoints and resume states; ``artifacts`` in ``data_dir`` unless given."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    """The operator's key; needed to listen anywhere but on loopback."""
    allowed_hosts: Names = ()
    """Values of the Host header to answer besides ``host`` and loopback's; empty: with a key, any."""
    max_body_bytes: int = Field(2**20, ge=1024, le=2**30)
    max_action_body_bytes: int = Field(16 * 2**20, ge=1024, le=2**30)
    """Of action requests, which may carry batches of images."""
    policy_cache_bytes: int = Field(256 * 2**20, ge=2**20, le=2**40)
    """Memory for loaded policies; the least recently used are dropped."""
    max_streams: int = Field(500, ge=1, le=100_000)
    """Event streams and waiting requests held open at once by one process."""

    lease_seconds: float = Field(10.0, ge=1, le=60)
    """A worker silent for so long has lost its jobs. It beats every third of this, and counts as gone after 30 s."""
    sweep_seconds: float = Field(2.0, ge=0.1, le=60)
    frozen_seconds: float = Field(60.0, ge=1, le=3600)
    """A trainer process that has read nothing of its worker for so long is ended and its job tried again. Reading is a
    thread of its own: env steps and updates may take longer, if they do not hold the interpreter for a lease."""
    queues: Names = ("default",)
    """Queues this worker takes jobs from."""
    slots: int | None = Field(None, ge=1, le=1024)
    """Jobs this worker trains at once on the CPU; None: half of the cores, or none where there is a GPU."""
    devices: Names = ()
    """One slot per entry, ``cpu`` or ``cuda:N``; empty: ``slots`` times ``cpu``, else one per GPU."""
    spares: int = Field(1, ge=0, le=16)
    """Warm trainer processes waiting for a job."""

    @field_validator("data_dir", "artifacts_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for device in value:
            if not re.fullmatch(r"cpu|cuda:\d{1,3}", device):
                raise ValueError(f"TRAINYARD_DEVICES: {device!r} is neither cpu nor cuda:N")
        return value

    @model_validator(mode="after")
    def _refuse_what_is_unsafe(self) -> Self:
        key = self.api_key.get_secret_value() if self.api_key else None
        if key is not None:
            if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"TRAINYARD_API_KEY must have at least {MIN_KEY_LENGTH} printable ASCII characters, no spaces"
                )
            if len(set(key)) < 8 or any(key.lower().startswith(word) for word in _PLACEHOLDERS):
                raise ValueError("TRAINYARD_API_KEY is a placeholder; make one with: openssl rand -hex 32")
        elif not is_loopback(self.host):
            raise ValueError(f"listening on {self.host} needs TRAINYARD_API_KEY; without one only loopback is allowed")
        elif not all(is_loopback(name) for name in self.allowed_hosts):
            raise ValueError("TRAINYARD_ALLOWED_HOSTS beyond loopback needs TRAINYARD_API_KEY")
        if self.sweep_seconds > self.lease_seconds:
            raise ValueError("TRAINYARD_SWEEP_SECONDS may not exceed TRAINYARD_LEASE_SECONDS")
        return self

    @cached_property
    def hosts(self) -> frozenset[str] | None:
        """Host names to answer, lower case; None = any."""
        if "*" in self.allowed_hosts or (self.api_key and not self.allowed_hosts):
            return None
        return frozenset(name.lower() for name in (*self.allowed_hosts, *LOOPBACK_HOSTS, self.host))


def messages(error: ValidationError) -> list[str]:
    """What is wrong with the settings, a line for each, with the variable it is about."""
    lines = []
    for row in error.errors(include_url=False, include_input=False):
        message = str(row["msg"]).removeprefix("Value error, ")
        variable = "_".join(("TRAINYARD", *(str(step).upper() for step in row["loc"][:1])))
        lines.append(message if not row["loc"] or variable in message else f"{variable}: {message}")
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. If they are wrong it ends and says why, a line each."""
    try:
        return Settings()
    except ValidationError as error:
        sys.exit("\n".join(f"trainyard: {message}" for message in messages(error)))
