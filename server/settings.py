"""Settings of the server: a YAML file, then the environment, then the command line."""

import math
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from simmap.engine.errors import ConfigError, printable
from simmap.engine.options import MOST_THREADS, Options
from simmap.engine.schema import build, load_yaml, shortened

PREFIX = "SIMMAP_SERVER_"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """What the bearer of a key may do.

    Attributes:
        sha256: of the key's bytes, in hexadecimal. A key must be random, of 128 bits or more: a plain hash
            protects nothing that could be guessed.
        read: compare, embed, map, and see what the model is.
        search: search the index and see thumbnails of its images.
        change: add images to the index and remove them.
        admin: open the model and the index anew.
    """

    sha256: str
    read: bool = False
    search: bool = False
    change: bool = False
    admin: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no SHA-256 (ConfigError)."""
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(
                f"sha256 is {shortened(self.sha256)}, must be 64 hexadecimal digits, lower case"
            )


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Attributes:
        model: path of the artifact; None takes the index's model, or the one that ships.
        index: name of an index to search, a folder or a URL; None serves none.
        host, port: where to listen; port 0 takes a free one.
        reuse_port: let several processes listen on the same port, among which the system shares the
            connections (Linux).
        device, cache: as for ``engine.options.Options``.
        threads: requests that are worked on at the same time; 0 takes one for each usable CPU.
        queue: requests that may wait for a thread; more are answered with 503.
        max_bytes: of a request's body.
        max_pixels: of an image.
        max_results: the largest ``k`` of a search.
        body_seconds: within which a request must have arrived.
        run_seconds: within which a request is answered once it has arrived.
        drain_seconds: from SIGTERM until connections are no longer accepted, for a load balancer to notice.
        requests_per_minute: of one client, with as many at once as ten seconds give; 0 sets no limit. A
            client is a key, or an address without keys.
        trusted_proxies: addresses whose ``X-Forwarded-For`` names the client, with commas between them.
        keys: who may do what, by a name for the log; without any, all may read and search, and nobody may
            change the index or reload.
    """

    model: str | None = None
    index: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    reuse_port: bool = False
    device: str = "auto"
    cache: bool = True
    threads: int = 0
    queue: int = 32
    max_bytes: int = 32 << 20
    max_pixels: int = 40_000_000
    max_results: int = 100
    body_seconds: float = 10.0
    run_seconds: float = 30.0
    drain_seconds: float = 0.0
    requests_per_minute: int = 0
    trusted_proxies: str | None = None
    keys: dict[str, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid values, by name (ConfigError)."""
        seconds = "above 0 and at most 3600"
        checks = {
            "host": (bool(self.host) and self.host.isprintable(), "a name or an address"),
            "port": (0 <= self.port <= 65535, "from 0 to 65535"),
            "threads": (0 <= self.threads <= MOST_THREADS, f"from 0 to {MOST_THREADS}"),
            "queue": (0 <= self.queue <= 100_000, "from 0 to 100000"),
            "max_bytes": (self.max_bytes >= 1024, "1024 or more"),
            "max_pixels": (self.max_pixels >= 1, "1 or more"),
            "max_results": (1 <= self.max_results <= 10_000, "from 1 to 10000"),
            "body_seconds": (0 < self.body_seconds <= 3600, seconds),
            "run_seconds": (0 < self.run_seconds <= 3600, seconds),
            "drain_seconds": (0 <= self.drain_seconds <= 3600, "from 0 to 3600"),
            "requests_per_minute": (0 <= self.requests_per_minute <= 10**9, "from 0 to 1000000000"),
        }
        for name, (valid, rule) in checks.items():
            value = getattr(self, name)
            if not valid or (isinstance(value, float) and not math.isfinite(value)):
                raise ConfigError(f"{name} is {shortened(value)}, must be {rule}")

    def engine_options(self, default_model: str | None) -> Options:
        """Of the engine: one thread for each request, since several requests run at the same time.

        Args:
            default_model: where ``model`` is None.
        """
        return Options(
            model=self.model or default_model,
            device=self.device,
            threads=1,
            workers=1,
            cache=self.cache,
            max_pixels=self.max_pixels,
        )


def load_settings(
    path: str | None, environment: Mapping[str, str] = os.environ, **overrides: Any
) -> Settings:
    """Settings from a YAML file (None: no file), the environment, and ``overrides`` that are not None.

    A variable ``SIMMAP_SERVER_NAME`` sets ``name``; numbers, true or false and ``keys`` are read as YAML.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of the wrong type or invalid.
    """
    data = {} if path is None else load_yaml(path)
    hints = typing.get_type_hints(Settings)
    names = {PREFIX + f.name.upper(): f.name for f in fields(Settings)}
    for variable, text in environment.items():
        if variable.startswith(PREFIX):
            if variable not in names:
                raise ConfigError(f"{printable(variable)} is no setting; there are {', '.join(names)}")
            data[names[variable]] = _value(
                variable, text, is_text=hints[names[variable]] in (str, str | None)
            )
    data |= {name: value for name, value in overrides.items() if value is not None}
    where = path or "settings"
    settings: Settings = build(Settings, data, kind="options", where=where)
    return settings


def _value(variable: str, text: str, *, is_text: bool) -> Any:
    if is_text:
        return text or None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{variable} is {shortened(text)}, which is no YAML value") from error
