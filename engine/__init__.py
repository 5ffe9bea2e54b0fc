"""simmap engine: artifact + images -> similarity maps and pictures, without PyTorch.

The names below are imported on first use, so that ``simmap --version`` or the reading of a contract
loads neither OpenCV nor ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.agreement import agreement
    from .analysis.classes import class_maps
    from .analysis.composites import composites
    from .analysis.contrast import contrast, contrast_indexes
    from .analysis.contribution import contribution_curve
    from .analysis.faithfulness import faithfulness
    from .analysis.retrieval import retrieval
    from .dataset import find_images, read_pairs, sample_pairs, with_distractors
    from .engine import Engine
    from .errors import (
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
    from .figures.classes import ClassFigure
    from .figures.contrast import ContrastFigure
    from .figures.contribution import ContributionFigure
    from .figures.faithfulness import FaithfulnessFigure
    from .figures.found import SearchFigure
    from .figures.pair import PairFigure
    from .index.copying import copy_index
    from .index.embedded import Index
    from .index.explain import explain
    from .index.opening import make_index, open_index
    from .index.recall import measure_recall
    from .index.search import search, search_embeddings
    from .index.store import about_of
    from .index.update import update_index
    from .listing import list_source
    from .options import Options, load_options
    from .results import Activated, Embedded, Mapped, Pair, Vector

_MODULE_OF = {
    "Activated": ".results",
    "ArtifactError": ".errors",
    "ClassFigure": ".figures.classes",
    "ConfigError": ".errors",
    "ContrastFigure": ".figures.contrast",
    "ContributionFigure": ".figures.contribution",
    "DecompositionError": ".errors",
    "DeviceError": ".errors",
    "Embedded": ".results",
    "Engine": ".engine",
    "ExportError": ".errors",
    "FaithfulnessFigure": ".figures.faithfulness",
    "ImageError": ".errors",
    "Index": ".index.embedded",
    "Mapped": ".results",
    "Options": ".options",
    "OutputError": ".errors",
    "Pair": ".results",
    "PairFigure": ".figures.pair",
    "SearchFigure": ".figures.found",
    "SimmapError": ".errors",
    "StoreError": ".errors",
    "Vector": ".results",
    "about_of": ".index.store",
    "agreement": ".analysis.agreement",
    "class_maps": ".analysis.classes",
    "composites": ".analysis.composites",
    "contrast": ".analysis.contrast",
    "contrast_indexes": ".analysis.contrast",
    "contribution_curve": ".analysis.contribution",
    "copy_index": ".index.copying",
    "explain": ".index.explain",
    "faithfulness": ".analysis.faithfulness",
    "find_images": ".dataset",
    "list_source": ".listing",
    "load_options": ".options",
    "read_pairs": ".dataset",
    "make_index": ".index.opening",
    "measure_recall": ".index.recall",
    "open_index": ".index.opening",
    "retrieval": ".analysis.retrieval",
    "sample_pairs": ".dataset",
    "search": ".index.search",
    "search_embeddings": ".index.search",
    "update_index": ".index.update",
    "with_distractors": ".dataset",
}

__all__ = [
    "Activated",
    "ArtifactError",
    "ClassFigure",
    "ConfigError",
    "ContrastFigure",
    "ContributionFigure",
    "DecompositionError",
    "DeviceError",
    "Embedded",
    "Engine",
    "ExportError",
    "FaithfulnessFigure",
    "ImageError",
    "Index",
    "Mapped",
    "Options",
    "OutputError",
    "Pair",
    "PairFigure",
    "SearchFigure",
    "SimmapError",
    "StoreError",
    "Vector",
    "about_of",
    "agreement",
    "class_maps",
    "composites",
    "contrast",
    "contrast_indexes",
    "contribution_curve",
    "copy_index",
    "explain",
    "faithfulness",
    "find_images",
    "list_source",
    "load_options",
    "make_index",
    "measure_recall",
    "open_index",
    "read_pairs",
    "retrieval",
    "sample_pairs",
    "search",
    "search_embeddings",
    "update_index",
    "with_distractors",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name], __name__), name)
