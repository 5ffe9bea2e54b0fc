"""What each place adds to an embedding, from an artifact's outputs, and whether that is all of it."""

import math
from pathlib import Path

import numpy as np

from . import decompose
from .contract import Contract
from .errors import ArtifactError
from .types import Array

EVERY = 64  # runs; one of them is checked
TOLERANCE = 2e-5  # as the export gate; a map of 1024 x 1024 places stays below a fifth of it
TF32_TOLERANCE = 1e-2  # TF32 keeps 10 bits of a factor


def parts_of(contract: Contract, places: Array) -> Array:
    """(H, W, D), what each place of an image adds to its embedding.

    Args:
        contract: of the artifact.
        places: the second output of ``Contract.explained``: ``conv`` (C, H, W) without a head, ``parts``
            (H, W, D) with one.
    """
    if contract.has_parts:
        return places
    eps = decompose.GEM_EPS if contract.eps is None else contract.eps
    return decompose.alpha_hat(places, contract.pooling, p=contract.p, eps=eps)


def rest_of(contract: Contract, embedding: Array, parts: Array) -> Array | None:
    """(D,), what of an image's embedding no place owns; None where every part of it has a place.

    Args:
        contract: of the artifact.
        embedding, parts: (D,) and (H, W, D) of the image.
    """
    if contract.rest == "constant":
        return contract.bias_vector
    total = parts.sum(axis=(0, 1), dtype=np.float64)
    return np.asarray(embedding - total, dtype=np.float32)


class SumCheck:
    """Checks by sampling that the parts and the bias of an image sum to its embedding.

    The identity holds in every precision, because the parts explain the network that runs. It fails if the
    contract names another pooling than the graph's, or if the graph is damaged.
    """

    def __init__(self, contract: Contract, path: Path, *, once: bool = False, tf32: bool = False) -> None:
        """For a session of the artifact ``path``.

        Args:
            contract, path: of the artifact.
            once: check the first run only, where feature maps are on a device that they should not leave.
            tf32: CUDA may round products to TF32.
        """
        self._contract, self._path, self._once = contract, path, once
        self._tolerance = TF32_TOLERANCE if tf32 else TOLERANCE
        self._left: float = 0  # runs until the next check

    def due(self) -> bool:
        """Whether this run is to be checked: the first one, and one of every ``EVERY`` after it."""
        # Two threads at once may check one run more or count one less.
        if self._left > 0:
            self._left -= 1
            return False
        return True

    def check(self, embedding: Array, places: Array) -> None:
        """Check one image; one that has no direction is left for the next run to replace.

        Args:
            embedding: (D,).
            places: as for ``parts_of``.

        Raises:
            ArtifactError: the sum differs from the embedding by more than rounding.
        """
        if not np.isfinite(embedding).all() or not np.isfinite(places).all() or not embedding.any():
            return
        contract = self._contract
        if contract.rest == "image":
            return  # the rest is what the sum lacks
        parts = parts_of(contract, places)
        # Rounding grows with what is summed, which may cancel.
        total = parts.sum(axis=(0, 1), dtype=np.float64)
        size = np.abs(parts).sum(axis=(0, 1), dtype=np.float64)
        if contract.bias_vector is not None:
            total, size = total + contract.bias_vector, size + np.abs(contract.bias_vector)
        difference = float(np.linalg.norm(total - embedding) / np.linalg.norm(size + np.abs(embedding)))
        if not difference <= self._tolerance:
            fields = f"pooling {contract.pooling!r}" + ("" if contract.p is None else f", p = {contract.p:g}")
            if contract.has_parts:
                fields = "parts and bias"
            raise ArtifactError(
                f"{self._path}: its {fields} do not give its {contract.explained[0]!r} output (relative "
                f"difference {difference:.2g}, at most {self._tolerance:g} is rounding), so its maps would "
                "not sum to the score; export it again"
            )
        self._left = math.inf if self._once else EVERY - 1
