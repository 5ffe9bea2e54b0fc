"""Options of the engine, in YAML or as keywords."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .schema import build, load_yaml, shortened

MOST_THREADS = 1024
LARGEST_SIDE = 8192  # pixels of a network's input


@dataclass(frozen=True)
class Options:
    """Options of the engine, as ``configs/engine.yaml`` lists them.

    Attributes:
        model: path of the artifact; None takes the one that ships.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads in all; 0 takes every CPU that the process may use.
        workers: images that are worked on at the same time, which share the threads; 0 takes one a
            thread, 1 gives every image all threads: the least delay for single images.
        cache: keep the optimised graph for the next start on the CPU (see ``engine.runtime.cache``).
        tf32: let CUDA round float32 products to TF32.
        max_pixels: the largest photo that is decoded, in pixels.
        fast_decode: decode large JPEG files that are only embedded at a half, a quarter or an eighth of
            their size, if their shorter side stays at least 3 times the network's.
        size: (height, width) of the network's input instead of the contract's, for dynamic artifacts.
        panel_height: pixels of a photo's height in a picture.
        opacity: how much of the photo's contrast the heat covers at full scale, in (0, 1].
        scale: the contribution that gets the full colour in every picture; None takes each picture's largest.
        contours: draw lines around the fewest places that make half and 80 % of a score.
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
    scale: float | None = None
    contours: bool = True

    def __post_init__(self) -> None:
        """Refuse invalid values, by name (ConfigError)."""
        checks = {
            "threads": (0 <= self.threads <= MOST_THREADS, f"from 0 to {MOST_THREADS}"),
            "workers": (0 <= self.workers <= MOST_THREADS, f"from 0 to {MOST_THREADS}"),
            "max_pixels": (self.max_pixels >= 1, "1 or more"),
            "size": (
                self.size is None or 1 <= min(self.size) <= max(self.size) <= LARGEST_SIDE,
                f"two whole numbers from 1 to {LARGEST_SIDE}",
            ),
            "panel_height": (32 <= self.panel_height <= 4096, "between 32 and 4096 pixels"),
            "opacity": (0 < self.opacity <= 1, "above 0 and at most 1"),
            "scale": (self.scale is None or 1e-9 <= self.scale <= 1e9, "a number from 1e-9 to 1e9"),
        }
        for name, (valid, rule) in checks.items():
            if not valid:
                raise ConfigError(f"{name} is {shortened(getattr(self, name))}, must be {rule}")


def load_options(path: str | Path, **overrides: Any) -> Options:
    """The engine's options from a YAML file; ``overrides`` that are not None win over the file.

    Raises:
        ConfigError: as for ``load_yaml`` and ``build``.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    options: Options = build(Options, {**load_yaml(path), **given}, kind="options", where=path)
    return options
