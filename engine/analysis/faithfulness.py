"""Whether the score of a pair falls where its map says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .. import decompose
from ..engine import Engine
from ..errors import ConfigError
from ..images.geometry import Geometry
from ..images.photo import Photo
from ..types import Array
from .contribution import LEAST_SCORE

WORKING_SIDE = 2  # times the network's input: the size of a photo of which parts are blurred
BLUR = 0.1  # standard deviation over the photo's longer side


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How the score of pairs falls and rises as places of one image are blurred and restored.

    Attributes:
        pairs: that were measured.
        left_out: pairs whose score is below ``LEAST_SCORE``.
        shares: (steps + 1,) of the cells that are blurred (deletion) or restored (insertion).
        deletion, insertion: by the order of the cells, ``map``, ``norm`` or ``random``: (n, steps + 1)
            scores over the unaltered score.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: int
    shares: Array
    deletion: dict[str, Array]
    insertion: dict[str, Array]

    def areas(self) -> dict[str, dict[str, Array]]:
        """(n,) areas under each pair's curves: small is faithful for deletion, large for insertion."""
        widths = np.diff(self.shares)
        return {
            kind: {
                order: ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(axis=1)
                for order, values in curves.items()
            }
            for kind, curves in (("deletion", self.deletion), ("insertion", self.insertion))
        }


def faithfulness(
    engine: Engine,
    pairs: Sequence[tuple[str, str]],
    *,
    steps: int = 12,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Deletion and insertion for the score of a pair (after Petsiuk, Das, Saenko: RISE, BMVC 2018).

    The first image's cells are blurred in the order of its map against the second, and the score with
    the unaltered second image is measured; for insertion they are restored in a blurred image. Beside it
    stand the order of the plain activation norm ``|parts[x]|``, which knows nothing of the second image,
    and a random order.

    Args:
        engine: the network.
        pairs: paths of two images each.
        steps: how many times cells are blurred.
        seed: of the random orders.
        on_progress: called with the pairs done and their total.

    Raises:
        ConfigError: fewer than one step, or no pair's score is above ``LEAST_SCORE``.
        ImageError: an image cannot be read or embedded.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}, must be 1 or more")
    rng = np.random.default_rng(seed)
    kept: list[tuple[str, str]] = []
    curves: dict[str, dict[str, list[Array]]] = {
        kind: {order: [] for order in ("map", "norm", "random")} for kind in ("deletion", "insertion")
    }
    for done, (first, second) in enumerate(pairs):
        if on_progress is not None:
            on_progress(done, len(pairs))
        pixels = _working_copy(engine, engine.load(first))
        image, other = engine.embed([Photo(pixels, first), second])
        score = decompose.score(image.embedding, other.embedding)
        if score < LEAST_SCORE:
            continue
        kept.append((first, second))
        cells = _cells(image.geometry, *image.parts.shape[:2])
        blurred = cv2.GaussianBlur(pixels, (0, 0), BLUR * max(pixels.shape[:2]))
        direction = decompose.unit(other.embedding)
        rankings = {
            "map": image.map_against(other).ravel(),
            "norm": np.linalg.norm(image.parts, axis=2).ravel(),
            "random": rng.permutation(image.parts.shape[0] * image.parts.shape[1]),
        }
        for order, ranking in rankings.items():
            place = np.empty(len(ranking), np.intp)
            place[np.argsort(-ranking, kind="stable")] = np.arange(len(ranking))
            for kind, here, there in (("deletion", pixels, blurred), ("insertion", blurred, pixels)):
                counts = np.linspace(0, len(ranking), steps + 1).round()
                altered = (np.where((place[cells] < n)[..., None], there, here) for n in counts)
                scores = [decompose.unit(vector.embedding) @ direction for vector in engine.vectors(altered)]
                curves[kind][order].append(np.array(scores) / score)
    if not kept:
        raise ConfigError(f"none of {len(pairs)} pairs has a score above {LEAST_SCORE}; take similar images")
    deletion, insertion = (
        {order: np.array(values) for order, values in curves[kind].items()}
        for kind in ("deletion", "insertion")
    )
    return Faithfulness(
        tuple(kept), len(pairs) - len(kept), np.linspace(0, 1, steps + 1), deletion, insertion
    )


def _working_copy(engine: Engine, photo: Photo) -> npt.NDArray[np.uint8]:
    """The photo, no larger than the network can tell."""
    spec = engine.contract.input
    most = WORKING_SIDE * max(engine.options.size or (spec.height, spec.width))
    height, width = photo.pixels.shape[:2]
    scale = most / min(height, width)
    if scale >= 1:
        return photo.pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _cells(geometry: Geometry, height: int, width: int) -> npt.NDArray[np.intp]:
    """(photo_height, photo_width): the cell of each pixel, counted by rows; outside, the nearest one."""
    x0, y0, x1, y1 = geometry.field
    rows = np.floor((np.arange(geometry.photo_height) + 0.5 - y0) / (y1 - y0) * height)
    columns = np.floor((np.arange(geometry.photo_width) + 0.5 - x0) / (x1 - x0) * width)
    y = np.clip(rows, 0, height - 1).astype(np.intp)
    x = np.clip(columns, 0, width - 1).astype(np.intp)
    return np.asarray(y[:, None] * width + x[None])
