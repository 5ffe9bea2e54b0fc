"""simmap engine: artifact + images -> similarity maps and pictures, without PyTorch.

The names below are imported on first use, so that ``simmap --version`` or the reading of a contract
loads neither OpenCV nor ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simmap.engine.errors import (
        ArtifactError,
        ConfigError,
        DecompositionError,
        DeviceError,
        ExportError,
        ImageError,
        OutputError,
        SimmapError,
    )
    from simmap.engine.pipeline import Embedded, Engine, Pair

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DecompositionError",
    "DeviceError",
    "Embedded",
    "Engine",
    "ExportError",
    "ImageError",
    "OutputError",
    "Pair",
    "SimmapError",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "errors" if name.endswith("Error") else "pipeline"
        return getattr(import_module(f"simmap.engine.{module}"), name)
