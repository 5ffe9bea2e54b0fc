"""The contribution that gets the full colour, and how it is printed."""

import decimal
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DecompositionError
from .text import MINUS

DIGITS = 2  # of a default scale: what is printed is the scale itself and can be given to another picture


def shared_scale(maps: Iterable[npt.NDArray[np.floating[Any]] | None]) -> float:
    """The largest contribution, for or against, of all maps (H, W), rounded up to ``DIGITS``; 1 if all are 0.

    Raises:
        DecompositionError: a map is not (H, W), is empty, or has NaN or infinite values.
    """
    largest = 0.0
    for values in maps:
        if values is not None:
            check_map(values)
            largest = max(largest, float(np.abs(values).max()))
    if not largest:
        return 1.0
    # Through the shortest decimal, for 0.07 is a little more than 0.07 in binary.
    upwards = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_CEILING)
    rounded = float(upwards.create_decimal(repr(largest)))
    return rounded if math.isfinite(rounded) else largest


def tick_text(value: float, *, signed: bool, clipped: bool = False) -> str:
    """The number at a tick; with ``clipped`` values lie beyond it."""
    text = f"{value:+g}" if signed and value else f"{value:g}"
    text = text.replace("-", MINUS)
    if not clipped:
        return text
    return f"{text} or {'less' if value < 0 else 'more'}"


def check_map(values: npt.NDArray[Any]) -> None:
    """Refuse what is no map (DecompositionError)."""
    if values.ndim != 2 or 0 in values.shape:
        raise DecompositionError(f"a map has shape {values.shape}, must be (H, W) and not empty")
    if not np.isfinite(values).all():
        raise DecompositionError("a map has NaN or infinite values, so there is nothing to draw")


def check_scale(scale: float) -> None:
    """Refuse what is no scale (DecompositionError)."""
    if not (math.isfinite(scale) and scale > 0):
        raise DecompositionError(f"the scale of a picture is {scale}, must be a number above 0")
