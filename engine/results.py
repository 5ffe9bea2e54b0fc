"""What the engine gives for images: embeddings, maps and pairs, as plain frozen data."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from . import decompose
from .decompose import View
from .images.geometry import Geometry
from .images.photo import Photo
from .types import Array


@dataclass(frozen=True, eq=False)
class Vector:
    """One image as an index keeps it.

    Attributes:
        path: the image's path, or ``<bytes>`` or ``<array>``.
        embedding: (D,) float32, not normalised.
        geometry: where the network's input lies on the photo.
    """

    path: str
    embedding: Array
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Mapped(Vector):
    """One image and its map against a known direction.

    Attributes:
        path, embedding, geometry: as for ``Vector``.
        map: (H, W), what each place adds to the inner product of the unit embedding with the direction.
    """

    map: Array


@dataclass(frozen=True, eq=False)
class Embedded(Vector):
    """One image as the network sees it.

    Attributes:
        path, embedding, geometry: as for ``Vector``.
        parts: (H, W, D) float32, what each place adds; the sum and the rest give ``embedding``.
        rest: (D,) float32, what no place owns: a bias, or what is this image's own; None where every
            part of the embedding has a place.
    """

    parts: Array
    rest: Array | None

    def map_against(self, other: Vector, view: View = "contribution") -> Array:
        """(H, W): what each place of this image adds to the score with ``other``, or how it moves it.

        Args:
            other: the image that this one is compared with.
            view: ``contribution``, a map that sums to the score less the residual, or ``influence``, the
                derivative of the score by the weight of each place (see ``decompose.influence_direction``).
        """
        if view == "contribution":
            return decompose.similarity_map(self.parts, self.embedding, other.embedding)
        unit = decompose.unit(other.embedding, name="other embedding")
        direction = decompose.influence_direction(self.embedding, unit)
        return decompose.direction_map(self.parts, self.embedding, direction)

    def residual_against(self, other: Vector) -> float:
        """The part of the score with ``other`` that no place owns."""
        return decompose.residual(self.rest, self.embedding, other.embedding)


@dataclass(frozen=True, eq=False)
class Activated(Embedded):
    """One image with the last feature map behind its parts.

    Attributes:
        path, embedding, geometry, parts, rest: as for ``Embedded``.
        alpha: (C, H, W), the last feature map; None with a head, whose ``parts`` the graph computes.
        tokens: (H, W, D), for a class token the embedding that each cell's patches would give in its place;
            None for other networks, and where the artifact does not have it.
        attention: (H, W), how the class token attends to each cell in the last block; None likewise.
    """

    alpha: Array | None
    tokens: Array | None = None
    attention: Array | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images, their cosine similarity, and where it comes from.

    Attributes:
        images: the two images as the network sees them.
        photos: their pixels, EXIF orientation applied.
    """

    images: tuple[Embedded, Embedded]
    photos: tuple[Photo, Photo]

    @cached_property
    def score(self) -> float:
        """The cosine of the two embeddings, between -1 and 1."""
        return decompose.score(self.images[0].embedding, self.images[1].embedding)

    @cached_property
    def maps(self) -> tuple[Array, Array]:
        """(H, W) of the first against the second and of the second against the first.

        Each sums to ``score`` less its residual.
        """
        first, second = self.images
        return first.map_against(second), second.map_against(first)

    @cached_property
    def influence(self) -> tuple[Array, Array]:
        """(H, W) of the first against the second and of the second against the first.

        How the score changes with the weight of each place: positive raises it, negative lowers it. Each
        sums to 0 without a rest (see ``decompose.influence_direction``).
        """
        first, second = self.images
        return first.map_against(second, "influence"), second.map_against(first, "influence")

    @cached_property
    def residuals(self) -> tuple[float, float]:
        """The part of the score that no place owns, per direction; 0 without a rest."""
        first, second = self.images
        return first.residual_against(second), second.residual_against(first)

    def point(self, index: Literal[0, 1], y: int, x: int) -> Array:
        """What place (y, x) of one image matches in the other.

        Args:
            index: 0 for a place of the first image, 1 for one of the second.
            y, x: row and column of the place on the image's map.

        Returns:
            (H, W) of the other image.

        Raises:
            DecompositionError: the place is outside the map.
        """
        here, there = self.images[index], self.images[1 - index]
        return decompose.point_map(here.parts, here.embedding, there.parts, there.embedding, y, x)
