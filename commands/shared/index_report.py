"""What ``index build`` and ``index add`` print."""

import sys
from typing import TYPE_CHECKING

from simmap.engine.errors import printable

from .report import print_json, print_line

if TYPE_CHECKING:
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.update import Update


def print_update(index: "Index", update: "Update", *, as_json: bool) -> None:
    """Print what was added, kept, removed and skipped; a line on stderr for each image skipped."""
    for _, error in update.skipped:
        print(f"simmap: skipped {printable(error)}", file=sys.stderr)
    if as_json:
        print_json(
            {
                "index": str(index.path),
                "images": len(index),
                "added": update.added,
                "kept": update.kept,
                "removed": update.removed,
                "skipped": [{"path": path, "error": error} for path, error in update.skipped],
            }
        )
        return
    counts = (
        f"{update.added} added, {update.kept} kept, {update.removed} removed, {len(update.skipped)} skipped"
    )
    print_line(f"{printable(str(index.path))}: {counts}; {len(index)} images")
