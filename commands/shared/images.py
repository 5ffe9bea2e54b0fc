"""The images of a folder; sub-folders that cannot be read are named on stderr and left out."""

import sys
from typing import TYPE_CHECKING

from simmap.engine.errors import ConfigError, printable

if TYPE_CHECKING:
    from simmap.engine.dataset import Item


def list_images(folder: str, labels: str | None = None, *, strict: bool = False) -> "tuple[list[Item], bool]":
    """The images, and whether they are all of them.

    Args:
        folder, labels: as for ``engine.dataset.find_images``.
        strict: raise for a sub-folder that cannot be read.

    Raises:
        ConfigError: as for ``find_images``.
    """
    from simmap.engine.dataset import find_images

    skipped = []

    def skip(path: str, error: ConfigError) -> None:
        skipped.append(path)
        print(f"simmap: skipped {printable(str(error))}", file=sys.stderr)

    return find_images(folder, labels, on_error=None if strict else skip), not skipped
