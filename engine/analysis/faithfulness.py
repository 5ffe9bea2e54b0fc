"""Whether the score of a pair falls where its map says, beside other orders of the places."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import decompose
from ..engine import Engine
from ..errors import ConfigError
from ..images.photo import Photo
from ..results import Activated, Vector
from ..types import Array, Pixels
from .blocks import SIDE, BlockGrid, baselines, removed, working_copy
from .contribution import LEAST_SCORE
from .orders import order_maps, skipped_orders

KINDS = ("deletion", "insertion")
RESAMPLES = 2000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How the score of pairs falls and rises as blocks of one image are removed and restored.

    Attributes:
        pairs: that were measured.
        left_out: pairs whose score is below ``LEAST_SCORE``.
        shares: (steps + 1,) of the blocks that are removed (deletion) or restored (insertion).
        curves: by what removed blocks show (``blur``, ``mean``), then by ``deletion`` or ``insertion``, then
            by the order of the blocks: (n, steps + 1) scores over the unaltered score.
        skipped: orders that this network has no data for, or that equal another, and why.
        seed: of the resamples of ``interval``.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: int
    shares: Array
    curves: dict[str, dict[str, dict[str, Array]]]
    skipped: dict[str, str]
    seed: int = 0

    def areas(self, baseline: str, kind: str) -> dict[str, Array]:
        """By order, (n,) areas under the curves: small is faithful for deletion, large for insertion."""
        widths = np.diff(self.shares)
        return {
            order: ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(axis=1)
            for order, values in self.curves[baseline][kind].items()
        }

    def differences(self, baseline: str) -> dict[str, Array]:
        """By order, (n,) the area of insertion less that of deletion, by which orders are compared."""
        deletion, insertion = (self.areas(baseline, kind) for kind in KINDS)
        return {order: insertion[order] - deletion[order] for order in deletion}

    def interval(self, values: Array) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean of ``values`` (n,), one for each pair.

        All orders are resampled alike: percentiles 2.5 and 97.5 of the means of ``RESAMPLES`` resamples.
        Pairs count as independent; where they share photos, the true interval is wider.
        """
        rows = np.random.default_rng(self.seed).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = np.percentile(values[rows].mean(axis=1), (2.5, 97.5))
        return float(low), float(high)


def faithfulness(
    engine: Engine,
    pairs: Sequence[tuple[str, str]],
    *,
    steps: int = 12,
    occlusion: bool = False,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Deletion and insertion for the score of a pair (after Petsiuk, Das, Saenko: RISE, BMVC 2018).

    The first image's blocks (see ``blocks``) are removed in the order of a map of it, and the score with the
    unaltered second image is measured; for insertion they are restored in an image without them. The orders
    are those of ``orders.order_maps`` and a random one, as coarse as the map. Of blocks of equal value one
    drawn at random comes first.

    Args:
        engine: the network.
        pairs: paths of two images each.
        steps: how many times blocks are removed.
        occlusion: also order blocks by how far the score falls if one alone is blurred: one run of the
            network for each block.
        seed: of the random orders and of the intervals.
        on_progress: called with the pairs done and their total.

    Raises:
        ConfigError: fewer than one step, or no pair's score is above ``LEAST_SCORE``.
        ImageError: an image cannot be read or embedded.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}, must be 1 or more")
    rng = np.random.default_rng(seed)
    counts = np.linspace(0, SIDE * SIDE, steps + 1).round()
    kept: list[tuple[str, str]] = []
    measured: list[dict[tuple[str, str, str], Array]] = []
    for done, (first, second) in enumerate(pairs):
        if on_progress is not None:
            on_progress(done, len(pairs))
        pixels = working_copy(engine, engine.load(first))
        image, other = engine.activations([Photo(pixels, first), second])
        score = decompose.score(image.embedding, other.embedding)
        if score < LEAST_SCORE:
            continue
        kept.append((first, second))
        altered = _Altered(engine, pixels, image, other)
        maps = order_maps(image, other, engine.contract)
        maps["random"] = rng.random(maps["map"].shape)
        values = {order: altered.grid.values(one) for order, one in maps.items()}
        if occlusion:
            values["occlusion"] = score - altered.scores([("blur", one) for one in np.eye(SIDE * SIDE) > 0])
        jitter = rng.random(SIDE * SIDE)
        wanted: dict[tuple[str, str, str], list[Mask]] = {}
        for order, one in values.items():
            place = np.empty(len(one), np.intp)
            place[np.lexsort((jitter, -one))] = np.arange(len(one))
            for baseline in altered.baselines:
                wanted[baseline, "deletion", order] = [place < count for count in counts]
                wanted[baseline, "insertion", order] = [place >= count for count in counts]
        scores = altered.scores([(key[0], mask) for key, masks in wanted.items() for mask in masks])
        measured.append(dict(zip(wanted, np.split(scores / score, len(wanted)), strict=True)))
    if not kept:
        raise ConfigError(f"none of {len(pairs)} pairs has a score above {LEAST_SCORE}; take similar images")
    curves: dict[str, dict[str, dict[str, Array]]] = {}
    for baseline, kind, order in measured[0]:
        stacked = np.array([one[baseline, kind, order] for one in measured])
        curves.setdefault(baseline, {}).setdefault(kind, {})[order] = stacked
    shares = np.linspace(0, 1, steps + 1)
    skipped = skipped_orders(engine.contract, curves["blur"]["deletion"])
    return Faithfulness(tuple(kept), len(pairs) - len(kept), shares, curves, skipped, seed)


class _Altered:
    """Versions of an image of which blocks are removed, and their scores with the other image."""

    def __init__(self, engine: Engine, pixels: Pixels, image: Activated, other: Vector) -> None:
        self.grid, self.baselines = BlockGrid(image.geometry), baselines(pixels)
        self._engine, self._pixels = engine, pixels
        self._direction = decompose.unit(other.embedding)

    def scores(self, wanted: Sequence[tuple[str, Mask]]) -> Array:
        """The score for each baseline and mask of removed blocks; what is wanted twice is run once."""
        keys = [(baseline, mask.tobytes()) for baseline, mask in wanted]
        once = dict(zip(keys, wanted, strict=True))

        def versions() -> Iterator[Pixels]:
            for baseline, mask in once.values():
                yield removed(self._pixels, self.baselines[baseline], self.grid.mask(mask))

        vectors = self._engine.vectors(versions())
        scores = (float(decompose.unit(vector.embedding) @ self._direction) for vector in vectors)
        known = dict(zip(once, scores, strict=True))
        return np.array([known[key] for key in keys])
