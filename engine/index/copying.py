"""Move an index: to another place, or from one kind to another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import StoreError, printable
from .opening import make_index, open_index
from .store import MissingImageError, VectorStore

BATCH = 1000  # images that are read, written or compared at once


@dataclass(frozen=True)
class Copied:
    """What ``copy_index`` did.

    Attributes:
        copied: images that were written.
        kept: images that were there already.
    """

    copied: int
    kept: int


def copy_index(
    source: str, target: str, *, on_progress: Callable[[int, int], None] | None = None
) -> tuple[VectorStore, Copied]:
    """Copy all images of one index to another, which is made if need be, and compare each with its copy.

    A copy that was interrupted goes on where it stopped.

    Args:
        source, target: names, as for ``open_index``.
        on_progress: called with the images written or compared, and their total: twice the images.

    Returns:
        The target, and what was done.

    Raises:
        StoreError: the target is of another model or root, or has images that the source lacks; one of them
            changed meanwhile; or as for ``open_index``.
    """
    first = open_index(source)
    entries = {entry.id: entry for entry in first.entries()}
    second = make_index(target, first.about)
    there = {entry.id: entry for entry in second.entries()}
    strangers = there.keys() - entries.keys()
    if strangers:
        raise StoreError(
            f"{printable(second.name)}: has {len(strangers)} images that {printable(first.name)} lacks, such "
            f"as {printable(min(strangers))}; give a new index, or remove them"
        )
    todo = sorted(name for name, entry in entries.items() if there.get(name) != entry)
    kept, done = len(entries) - len(todo), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, 2 * len(entries))

    report(kept)
    try:
        for batch in _batches(todo):
            second.upsert(*first.get(batch))
            report(len(batch))
        second.settle()
        mended = 0
        for batch in _batches(sorted(entries)):
            mended += _compare(first, second, batch)
            report(len(batch))
    except MissingImageError as error:
        raise StoreError(f"{error}; an index was changed while it was copied, so copy it again") from error
    return second, Copied(len(todo) + mended, kept - mended)


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _compare(first: VectorStore, second: VectorStore, batch: Sequence[str]) -> int:
    """Write again what was there with another vector; returns how many. What then differs is an error."""
    differ = _differing(first, second, batch)
    if differ:
        second.upsert(*first.get(differ))
        for name in _differing(first, second, differ):
            raise StoreError(
                f"{printable(second.name)}: the image {printable(name)} is not what was written; see whether "
                "another program writes to it, and copy again"
            )
    return len(differ)


def _differing(first: VectorStore, second: VectorStore, batch: Sequence[str]) -> list[str]:
    (entries, vectors), (copies, copied) = first.get(batch), second.get(batch)
    same = [
        a == b and np.array_equal(v, w) for a, b, v, w in zip(entries, copies, vectors, copied, strict=True)
    ]
    return [name for name, one in zip(batch, same, strict=True) if not one]
