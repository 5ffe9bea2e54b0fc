"""Tensors of a source as vectors of features, whatever their axes and order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class MixedError(Exception):
    """A node whose features are of several lanes, or mixed with something else."""


@dataclass(frozen=True, eq=False)
class View:
    """A tensor of the source at batch 1: its numbers at ``mask``, in order, are those of a vector.

    The others are of no interest: results of queries that an attention pooling computes and throws away.
    """

    vector: str
    mask: npt.NDArray[np.bool_]

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """Of the tensor's shape: each number's place in the vector, or -1."""
        index = np.full(self.mask.shape, -1, dtype=np.int64)
        index[self.mask] = np.arange(self.mask.sum())
        return index


def lane_of(mask: npt.NDArray[np.bool_], axes: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The mask reduced over axes, which are kept: exactly one lane, wholly of interest.

    Raises:
        MixedError: there are more lanes, or one that is of interest in part.
    """
    some, every = mask.any(axis=axes, keepdims=True), mask.all(axis=axes, keepdims=True)
    if some.sum() != 1 or (some != every).any():
        raise MixedError
    return np.asarray(some)
