"""What ``index build`` and ``index add`` print."""

import sys
from typing import TYPE_CHECKING

from simmap.engine.errors import printable

from .report import print_json, print_line

if TYPE_CHECKING:
    from simmap.engine.index.store import VectorStore
    from simmap.engine.index.update import Update


def print_update(index: "VectorStore", update: "Update", *, as_json: bool) -> None:
    """Print what was added, kept, removed and skipped; a line on stderr for each image skipped."""
    for _, error in update.skipped:
        print(f"simmap: skipped {printable(error)}", file=sys.stderr)
    if as_json:
        print_json(
            {
                "index": index.name,
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
    print_line(f"{printable(index.name)}: {counts}; {len(index)} images")


def warn_of_recall(index: "VectorStore") -> None:
    """Say on stderr what an approximate index misses, if it is more than a hundredth."""
    from simmap.engine.index.store import ENOUGH

    recall = index.recall
    if recall is not None and min(recall.whole, recall.region) < ENOUGH:
        print(
            f"simmap: {printable(index.name)} is searched approximately; it finds {recall.whole:.3f} of the "
            f"10 best images and {recall.region:.3f} of those by region",
            file=sys.stderr,
        )
