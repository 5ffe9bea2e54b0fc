"""What the images of a class have in common (section 4.5 and figure 8 of arXiv 1901.00536)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import decompose
from ..decompose import View
from ..engine import Engine
from ..errors import ConfigError
from ..images.photo import Source
from ..results import Vector
from ..types import Array


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """What the images of a class have in common.

    Attributes:
        images: the members.
        maps: (H, W) of each: the mean of its maps with the other members (their sum over n - 1, so that
            classes of different sizes can be compared), minus its mean map with the outside, if any.
        cohesion: mean cosine of each member with the others, minus that with the outside.
        sources: the members' photos.
        view: ``contribution``, so that a map sums to its cohesion less its residual, or ``influence``: how a
            member's cohesion changes with the weight of each place.
    """

    images: tuple[Vector, ...]
    maps: tuple[Array, ...]
    cohesion: tuple[float, ...]
    sources: tuple[Source, ...]
    view: View = "contribution"

    def order(self) -> list[int]:
        """The members, the most typical first."""
        return sorted(range(len(self.images)), key=lambda i: -self.cohesion[i])


def class_maps(
    engine: Engine,
    sources: Sequence[Source],
    *,
    outside: Array | None = None,
    view: View = "contribution",
) -> ClassMaps:
    """For each image of a class, the mean of its maps with the other members.

    Linear in the number of images: a map is linear in the other's direction, so each image needs one map
    against the sum of the others'.

    Args:
        engine: the network.
        sources: at least two images of one class.
        outside: (n, D) embeddings of images of other classes; the mean map with them is subtracted, which
            leaves what distinguishes the class.
        view: what the maps show.

    Raises:
        ConfigError: fewer than two images.
        ImageError: an image cannot be read, or its embedding is zero or not finite.
    """
    if len(sources) < 2:
        raise ConfigError(
            f"a class needs at least two images to have something in common, this one has {len(sources)}; "
            "add images of the same class"
        )
    # Twice through the network, so that of a large class only vectors and maps are kept.
    images = tuple(engine.vectors(sources))
    embeddings = np.array([image.embedding for image in images])
    directions: Array = decompose.class_directions(embeddings) / (len(images) - 1)
    if outside is not None and len(outside):
        directions = directions - decompose.unit(outside).mean(axis=0)
    cohesion = (decompose.unit(embeddings) * directions).sum(axis=1)
    if view == "influence":
        directions = decompose.influence_direction(embeddings, directions)
    maps = tuple(image.map for image in engine.maps(sources, directions))
    return ClassMaps(images, maps, tuple(cohesion.tolist()), tuple(sources), view)
