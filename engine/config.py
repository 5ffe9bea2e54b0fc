"""Options in YAML, held against a dataclass: unknown keys and wrong types are errors that name them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simmap.engine.artifact import from_mapping
from simmap.engine.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Options of the engine, as ``configs/engine.yaml`` lists them.

    Attributes:
        model: path of the artifact; None takes the one that ships.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads in all; 0 takes every CPU that the process may use.
        workers: images that are worked on at the same time, which share the threads; 0 takes one a
            thread, 1 gives every image all threads: the least delay for single images.
        cache: keep the optimised graph for the next start on the CPU (see ``engine.session``).
        tf32: let CUDA round float32 products to TF32.
        max_pixels: the largest photo that is decoded, in pixels.
        fast_decode: decode large JPEG files that are only embedded at a half, a quarter or an eighth of
            their size, if their shorter side stays at least 3 times the network's.
        size: (height, width) of the network's input instead of the contract's, for dynamic artifacts.
        panel_height: pixels of a photo's height in a picture.
        opacity: of the heat map at full scale, in (0, 1].
    """

    model: str | None = None
    device: str = "auto"
    threads: int = 0
    workers: int = 0
    cache: bool = True
    tf32: bool = False
    max_pixels: int = 200_000_000
    fast_decode: bool = False
    size: tuple[int, int] | None = None
    panel_height: int = 360
    opacity: float = 0.6

    def __post_init__(self) -> None:
        """Refuse values that cannot be, by name (ConfigError)."""
        checks = {
            "threads": (self.threads >= 0, "0 or more"),
            "workers": (self.workers >= 0, "0 or more"),
            "max_pixels": (self.max_pixels >= 1, "1 or more"),
            "size": (self.size is None or min(self.size) >= 1, "two whole numbers of 1 or more"),
            "panel_height": (32 <= self.panel_height <= 4096, "between 32 and 4096 pixels"),
            "opacity": (0 < self.opacity <= 1, "above 0 and at most 1"),
        }
        for name, (valid, rule) in checks.items():
            if not valid:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be {rule}")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping, with plain values only.

    Raises:
        ConfigError: the file cannot be read, is not YAML, has tags such as ``!!python/object``, or is
            not a mapping.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not plain YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of options, holds {type(data).__name__}")
    return data


def build(target: Any, data: Mapping[str, Any], *, kind: str, where: str | Path) -> Any:
    """Make the dataclass ``target`` from ``data``; ``where`` is named in errors.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, a value that cannot be.
    """
    try:
        return from_mapping(target, dict(data), kind)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def load_options(path: str | Path, **overrides: Any) -> Options:
    """The engine's options from a YAML file; ``overrides`` that are not None win over the file.

    Raises:
        ConfigError: as for ``load_yaml`` and ``build``.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    options: Options = build(Options, {**load_yaml(path), **given}, kind="options", where=path)
    return options
