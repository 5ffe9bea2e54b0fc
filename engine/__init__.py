"""simmap engine: artifact + images -> similarity maps and pictures, without PyTorch.

The names below are imported on first use, so that ``simmap --version`` or the reading of a contract
loads neither OpenCV nor ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simmap.engine.curves import contribution_curve, faithfulness
    from simmap.engine.dataset import find_images, read_pairs, sample_pairs
    from simmap.engine.errors import (
        ArtifactError,
        ConfigError,
        DecompositionError,
        DeviceError,
        ExportError,
        ImageError,
        OutputError,
        SimmapError,
        StoreError,
    )
    from simmap.engine.evaluate import agreement, retrieval
    from simmap.engine.figures import class_maps, contrast
    from simmap.engine.index import Index, update_index
    from simmap.engine.pipeline import Embedded, Engine, Mapped, Pair, Vector
    from simmap.engine.retrieve import render_found, search, search_embeddings

_MODULES = {
    "curves": ("contribution_curve", "faithfulness"),
    "dataset": ("find_images", "read_pairs", "sample_pairs"),
    "errors": (
        "ArtifactError",
        "ConfigError",
        "DecompositionError",
        "DeviceError",
        "ExportError",
        "ImageError",
        "OutputError",
        "SimmapError",
        "StoreError",
    ),
    "evaluate": ("agreement", "retrieval"),
    "figures": ("class_maps", "contrast"),
    "index": ("Index", "update_index"),
    "pipeline": ("Embedded", "Engine", "Mapped", "Pair", "Vector"),
    "retrieve": ("render_found", "search", "search_embeddings"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DecompositionError",
    "DeviceError",
    "Embedded",
    "Engine",
    "ExportError",
    "ImageError",
    "Index",
    "Mapped",
    "OutputError",
    "Pair",
    "SimmapError",
    "StoreError",
    "Vector",
    "agreement",
    "class_maps",
    "contrast",
    "contribution_curve",
    "faithfulness",
    "find_images",
    "read_pairs",
    "render_found",
    "retrieval",
    "sample_pairs",
    "search",
    "search_embeddings",
    "update_index",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"simmap.engine.{_MODULE_OF[name]}"), name)
