"""What the artifact computes behind the pooling."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine.contract import Head, Rest

from .analysis import Exposure, affine_bias


def has_head(exposure: Exposure) -> bool:
    """Whether the artifact computes ``embedding`` and ``parts`` itself."""
    return head_of(exposure) != "none"


def head_of(exposure: Exposure) -> Head:
    """What the contract calls the way behind the pooling."""
    if exposure.gated is not None and not exposure.gated.is_affine:
        return "gated"
    is_affine = exposure.tail is not None or exposure.gated is not None
    return "affine" if is_affine or exposure.pooling in ("weights", "flatten") else "none"


def rest_of(exposure: Exposure) -> Rest:
    """Whether what no place owns is the same for all images."""
    return "image" if exposure.gated is not None and exposure.gated.bias is None else "constant"


def dimension_of(exposure: Exposure) -> int:
    """D, the size of the embedding."""
    if exposure.gated is not None:
        return exposure.gated.dimension
    if exposure.tail is not None:
        return exposure.tail.dimension
    return exposure.shape[0] * (2 if exposure.pooling == "catavgmax" else 1)


def constant_part(exposure: Exposure) -> npt.NDArray[np.floating[Any]] | None:
    """The bias b (D,) of the embedding that no place owns; None without a head or if it is zero."""
    bias = exposure.gated.bias if exposure.gated is not None else affine_bias(exposure)
    return bias if bias is not None and bias.any() else None
