"""What the artifact computes behind the pooling."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .analysis import Exposure


def has_head(exposure: Exposure) -> bool:
    """Whether the artifact computes ``embedding`` and ``parts`` itself."""
    return exposure.tail is not None or exposure.pooling in ("weights", "flatten", "token")


def constant_part(exposure: Exposure) -> npt.NDArray[np.floating[Any]] | None:
    """The bias b (D,) of the embedding that no place owns; None without a head, if it is zero,
    or if it depends on the image."""
    if not has_head(exposure) or exposure.tokens is not None:
        return None
    bias: npt.NDArray[np.floating[Any]]
    bias = np.zeros(exposure.shape[0]) if exposure.tail is None else exposure.tail.bias
    if exposure.place_bias is not None:
        place = exposure.place_bias
        if exposure.tail is not None:
            matrix = exposure.tail.matrix
            place = matrix * place if matrix.ndim == 1 else matrix @ place
        bias = bias + place
    return bias if bias.any() else None
