"""What every figure can do: report its numbers, draw itself, write itself."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ..types import Pixels
from .files import write_picture


class Figure(ABC):
    """A result in a form to look at."""

    @abstractmethod
    def data(self) -> dict[str, Any]:
        """The numbers of the figure as plain data: what ``--json`` prints."""

    @abstractmethod
    def picture(self) -> Pixels:
        """The picture, uint8 RGB (h, w, 3)."""

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the picture as PNG, JPEG or WebP, atomically.

        Raises:
            OutputError: another suffix, a file that exists without ``force``, or one that cannot be
                written.
        """
        write_picture(path, self.picture(), force=force)
