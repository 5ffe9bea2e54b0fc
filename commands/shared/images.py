"""The images of a folder; sub-folders that cannot be read are named on stderr and left out."""

import sys
from typing import TYPE_CHECKING

import click

from simmap.engine.errors import ConfigError, printable

if TYPE_CHECKING:
    from simmap.engine.dataset import Item, LabelLevel


def list_images(
    folder: str,
    labels: str | None = None,
    label_level: "LabelLevel | None" = None,
    *,
    strict: bool = False,
) -> "tuple[list[Item], bool]":
    """The images, and whether they are all of them.

    Args:
        folder, labels, label_level: as for ``engine.dataset.find_images``; None takes the first folder.
        strict: raise for a sub-folder that cannot be read.

    Raises:
        ConfigError: as for ``find_images``.
        UsageError: ``label_level`` beside ``labels``.
    """
    from simmap.engine.dataset import find_images

    if labels is not None and label_level is not None:
        raise click.UsageError("--label-level is for labels from folders; leave it or --labels out")
    skipped = []

    def skip(path: str, error: ConfigError) -> None:
        skipped.append(path)
        print(f"simmap: skipped {printable(str(error))}", file=sys.stderr)

    return find_images(folder, labels, label_level or "first", on_error=None if strict else skip), not skipped
