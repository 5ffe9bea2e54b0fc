"""Photos made of two halves, of which only one has a reason to be similar."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..engine import Engine
from ..images.region import region_weights
from ..types import Array, Pixels
from .blocks import working_copy
from .orders import order_maps


@dataclass(frozen=True, eq=False)
class Composites:
    """Whether the matching half of a composite is the hotter one.

    Attributes:
        count: composites that were made.
        hotter: by the order of the places, (count,): whether the map's sum over the matching half is the
            larger one.
    """

    count: int
    hotter: dict[str, npt.NDArray[np.bool_]]


def composites(
    engine: Engine,
    triples: Sequence[tuple[str, str, str]],
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Composites:
    """Compare photos of two halves with a photo that is like one of them.

    For each triple a composite is made: one half of the first photo beside the other half of the third,
    stretched to the first one's size. It is compared with the second photo. The matching half is the left
    one in every other composite, so that a side that is always hot is right in half of them.

    Args:
        engine: the network.
        triples: paths of two photos of a class and of one of another class.
        seed: of the random order.
        on_progress: called with the composites done and their total.

    Raises:
        ImageError: an image cannot be read or embedded.
    """
    rng = np.random.default_rng(seed)
    hotter: dict[str, list[bool]] = {}

    def pictures() -> Iterator[Pixels]:
        for at, (first, _, third) in enumerate(triples):
            yield halves(
                *(working_copy(engine, engine.load(one)) for one in (first, third)), left=at % 2 == 0
            )

    others = engine.vectors([second for _, second, _ in triples])
    for at, (image, other) in enumerate(zip(engine.activations(pictures()), others, strict=True)):
        if on_progress is not None:
            on_progress(at, len(triples))
        maps = order_maps(image, other, engine.contract)
        maps["random"] = rng.random(maps["map"].shape)
        geometry = image.geometry
        box = (0.0, 0.0, float(geometry.photo_width // 2), float(geometry.photo_height))
        share = region_weights(geometry, *maps["map"].shape, boxes=[box])
        for order, values in maps.items():
            left, right = _sum(share * values), _sum((1 - share) * values)
            hotter.setdefault(order, []).append(left > right if at % 2 == 0 else right > left)
    return Composites(len(triples), {order: np.array(each) for order, each in hotter.items()})


def halves(first: Pixels, other: Pixels, *, left: bool) -> Pixels:
    """One half of ``first``, the ``left`` or the right one, beside the other half of ``other``."""
    height, width = first.shape[:2]
    picture = np.asarray(cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    half = slice(None, width // 2) if left else slice(width // 2, None)
    picture[:, half] = first[:, half]
    return picture


def _sum(values: Array) -> float:
    return float(values.sum(dtype=np.float64))
