"""Where the network's input lies on the photo."""

from dataclasses import dataclass

from ..errors import ImageError
from ..types import Corners


@dataclass(frozen=True)
class Geometry:
    """Where the network's input lies on the photo.

    Coordinates are in photo pixels and continuous: the pixel in column i and row j covers
    i <= x < i + 1, j <= y < j + 1, so its centre is (i + 0.5, j + 0.5).

    Attributes:
        photo_height, photo_width: pixels of the photo, EXIF orientation applied.
        field: (x0, y0, x1, y1) of the whole network input; larger than the photo for ``letterbox``,
            smaller for ``crop``.
    """

    photo_height: int
    photo_width: int
    field: Corners

    def resized(self, height: int, width: int) -> "Geometry":
        """The same on the photo at another size."""
        x0, y0, x1, y1 = self.field
        across, down = width / self.photo_width, height / self.photo_height
        return Geometry(height, width, (x0 * across, y0 * down, x1 * across, y1 * down))

    def cell_box(self, y: int, x: int, height: int, width: int) -> Corners:
        """(x0, y0, x1, y1) of cell (y, x) of a (height, width) map, in photo pixels.

        Neighbours share their edges exactly. The box is not clipped: for ``letterbox`` it may lie
        outside the photo.

        Raises:
            ImageError: the map has no such cell.
        """
        if not (0 <= y < height and 0 <= x < width):
            raise ImageError(
                f"cell ({y}, {x}) is outside the map of {height} x {width} cells; "
                f"give a row below {height} and a column below {width}"
            )
        x0, y0, x1, y1 = self.field
        return (
            _edge(x0, x1, x, width),
            _edge(y0, y1, y, height),
            _edge(x0, x1, x + 1, width),
            _edge(y0, y1, y + 1, height),
        )

    def cell_at(self, px: float, py: float, height: int, width: int) -> tuple[int, int]:
        """(y, x) of the cell of a (height, width) map under column ``px``, row ``py`` of the photo.

        Raises:
            ImageError: the place is outside the photo, or ``crop`` cut it away.
        """
        if not (0 <= px < self.photo_width and 0 <= py < self.photo_height):
            raise ImageError(
                f"pixel ({px:g}, {py:g}) is outside the photo; "
                f"give x below {self.photo_width} and y below {self.photo_height}"
            )
        x0, y0, x1, y1 = self.field
        if not (x0 <= px < x1 and y0 <= py < y1):
            raise ImageError(
                f"pixel ({px:g}, {py:g}) is outside the part that the network sees; "
                f"give x from {x0:.1f} to {x1:.1f} and y from {y0:.1f} to {y1:.1f}"
            )
        # min: a place just below the last edge may round up to it.
        return (
            min(int((py - y0) / (y1 - y0) * height), height - 1),
            min(int((px - x0) / (x1 - x0) * width), width - 1),
        )


def _edge(low: float, high: float, index: int, count: int) -> float:
    # low + (high - low) may miss high by a rounding; the last edge must be the field's own.
    return high if index == count else low + (high - low) * index / count
