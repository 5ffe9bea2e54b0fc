"""Bring an index up to date with the images on disk."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import decompose
from ..dataset import Item
from ..engine import Engine
from ..errors import ImageError, SimmapError, StorageError
from ..files import is_elsewhere, status_of
from ..images.photo import Source
from ..types import Array
from .store import Entry, VectorStore

COMMIT_ROWS, COMMIT_SECONDS = 256, 2.0  # of embedding between two writes of a build

# What gives entries and unit vectors (n, D) of images, in any order; see ``embedded_batches``.
Embed = Callable[
    [Engine, Sequence[tuple[Item, Entry]], Callable[[Source, SimmapError], None] | None],
    Iterator[tuple[list[Entry], Array]],
]


@dataclass(frozen=True)
class Update:
    """What ``update_index`` did.

    Attributes:
        added: images embedded and written, changed ones among them.
        kept: images that were there already.
        removed: images that were there and are no longer.
        skipped: path and error of the images that cannot be embedded, in the order of the items.
    """

    added: int
    kept: int
    removed: int
    skipped: tuple[tuple[str, str], ...]


def update_index(
    index: VectorStore,
    engine: Engine,
    items: Sequence[Item],
    *,
    prune: bool = False,
    strict: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    embed: Embed | None = None,
) -> Update:
    """Embed the images that the index lacks, or whose files have changed, and add them.

    An image that was there and can no longer be embedded is removed, unless its storage cannot be reached.

    What is embedded is written every few seconds, also when an error or an interrupt ends the run: the
    next run goes on from there. The build of a new index that was interrupted ends with the same files
    as one that was not.

    Args:
        index: where to.
        engine: with the model of the index.
        items: the images.
        prune: remove other images below the index's root, whose files have gone.
        strict: raise the error of an image that cannot be embedded, instead of leaving it out.
        on_progress: called with the images done, which are on the disk, and their total.
        embed: where to embed; None takes this machine, ``cluster.ray_cluster`` gives another.

    Raises:
        StoreError: the index is of another model, or cannot be written.
        StorageError: the storage of an image does not say whether it has changed.
        ImageError: with ``strict``, an image that cannot be embedded.
    """
    index.check_model(engine)
    known = {entry.id: entry for entry in index.entries()}
    skipped: list[tuple[str, str]] = []
    unknown: set[str] = set()
    # One image may be given by several paths.
    named = {index.id_of(item.path): item for item in items}
    todo: list[tuple[Item, Entry]] = []
    relabelled: list[Entry] = []
    kept = 0
    for name, item in named.items():
        try:
            status = item.status or status_of(item.path)
        except OSError as error:
            refusal = f"{item.path}: cannot be read: {error.strerror or 'there is no such file'}"
            if strict:
                raise ImageError(refusal) from error
            skipped.append((item.path, refusal))
            continue
        entry = Entry(name, item.label, 0, 0, *status)
        old = known.get(name)
        if old is None or old[4:] != entry[4:]:
            todo.append((item, entry))
            continue
        kept += 1
        if old.label != item.label:
            relabelled.append(old._replace(label=item.label))
    for start in range(0, len(relabelled), COMMIT_ROWS):
        batch = relabelled[start : start + COMMIT_ROWS]
        index.upsert(batch, index.get([entry.id for entry in batch])[1])

    done, added = kept + len(skipped), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, len(named))

    def refuse(source: Source, error: SimmapError) -> None:
        nonlocal done
        done += 1
        skipped.append((str(source), str(error)))
        if isinstance(error, StorageError):
            unknown.add(index.id_of(str(source)))

    try:
        for entries, vectors in (embed or embedded_batches)(engine, todo, None if strict else refuse):
            index.upsert(entries, vectors)
            added += len(entries)
            report(len(entries))
    finally:
        report(0)
    gone = {index.id_of(path) for path, _ in skipped} & known.keys() - unknown
    if prune:
        gone |= {name for name in known if name not in named and not is_elsewhere(name)}
    removed = index.delete(sorted(gone))
    order = {item.path: at for at, item in enumerate(named.values())}
    skipped.sort(key=lambda one: order[one[0]])
    index.settle()
    return Update(added, kept, removed, tuple(skipped))


def embedded_batches(
    engine: Engine,
    todo: Sequence[tuple[Item, Entry]],
    on_error: Callable[[Source, SimmapError], None] | None,
) -> Iterator[tuple[list[Entry], Array]]:
    """Entries and unit vectors (n, D) of images, as they are to be written: every few seconds.

    What was embedded before an error or an interrupt is given before it is raised.

    Args:
        engine: that embeds.
        todo: images, and their entries but for the size of the photo.
        on_error: called for an image that cannot be embedded, which is then left out; without it the error
            is raised.
    """
    refused: set[str] = set()
    ready: list[tuple[Entry, Array]] = []

    def refuse(source: Source, error: SimmapError) -> None:
        assert on_error is not None
        refused.add(str(source))
        on_error(source, error)

    def batch() -> tuple[list[Entry], Array]:
        entries, vectors = [entry for entry, _ in ready], np.array([vector for _, vector in ready])
        ready.clear()
        return entries, vectors

    waiting, started = deque(todo), time.monotonic()
    try:
        paths = [item.path for item, _ in todo]
        for vector in engine.vectors(paths, on_error=None if on_error is None else refuse):
            while waiting[0][0].path in refused:
                waiting.popleft()
            _, entry = waiting.popleft()
            height, width = vector.geometry.photo_height, vector.geometry.photo_width
            ready.append((entry._replace(height=height, width=width), decompose.unit(vector.embedding)))
            if len(ready) == COMMIT_ROWS or time.monotonic() - started > COMMIT_SECONDS:
                yield batch()
                started = time.monotonic()
    except BaseException:
        if ready:
            yield batch()
        raise
    if ready:
        yield batch()
