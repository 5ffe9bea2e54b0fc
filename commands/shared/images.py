"""The images of a source; sub-folders that cannot be read are named on stderr and left out."""

import sys
from typing import TYPE_CHECKING

import click

from simmap.engine.errors import ConfigError, printable

if TYPE_CHECKING:
    from simmap.engine.dataset import LabelLevel
    from simmap.engine.listing import Listing


def list_images(
    source: str,
    labels: str | None = None,
    label_level: "LabelLevel | None" = None,
    *,
    strict: bool = False,
) -> "tuple[Listing, bool]":
    """The images, and whether they are all of them.

    Args:
        source, labels, label_level: as for ``engine.listing.list_source``; None takes the first folder.
        strict: raise for a sub-folder that cannot be read.

    Raises:
        ConfigError, StorageError: as for ``list_source``.
        UsageError: ``label_level`` beside ``labels`` or a list.
    """
    from simmap.engine.listing import is_list, list_source

    if label_level is not None and (labels is not None or is_list(source)):
        raise click.UsageError(
            "--label-level is for labels from folders; leave it out, or the list of labels"
        )
    skipped = []

    def skip(path: str, error: ConfigError) -> None:
        skipped.append(path)
        print(f"simmap: skipped {printable(str(error))}", file=sys.stderr)

    listing = list_source(source, labels, label_level or "first", on_error=None if strict else skip)
    return listing, not skipped
