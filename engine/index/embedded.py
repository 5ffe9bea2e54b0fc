"""An index of images: their unit embeddings in a folder, searched exactly.

The folder holds ``index.sqlite`` (module ``database``) and ``vectors-G.f32`` (module ``vectors``). A write
appends vectors, then commits their rows to the database: a writer that is killed leaves the old state or the
new. When many rows are dead, a writer copies the live ones to the file of the next generation G.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..engine import Engine
from ..errors import StoreError, printable
from ..types import Array
from . import database as db
from . import vectors as files
from .database import DATABASE, Database, Header, Record
from .scan import CHUNK, QUERIES, candidates, exact_scores
from .store import About, Entry, MissingImageError, VectorStore, about_of

COMPACT_ROWS = 1024  # dead rows that are never worth a copy of the live ones

_OURS = re.compile(rf"{re.escape(DATABASE)}(-journal)?|vectors-\d+\.f32")


class Index(VectorStore):
    """An index on disk.

    Each call sees one state: that of the last write that was committed before it.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the index in the folder ``path``.

        Raises:
            StoreError: there is no index, it is damaged, or another version of simmap made it.
        """
        self.path = Path(path)
        self._mapped: tuple[tuple[bytes, int], files.Mapped] | None = None
        self._dead: tuple[tuple[bytes, int], int, npt.NDArray[np.bool_]] | None = None
        with db.reading(self.path) as database:
            self._header = database.header
            self._vectors(database.header)

    @classmethod
    def create(cls, path: str | Path, engine: Engine, root: str | Path) -> "Index":
        """An empty index for the vectors of ``engine``, of images below the folder ``root``.

        An index that is there already, of the same model and root, is opened as it is.

        Raises:
            StoreError: the folder is another index or holds other files, or cannot be written.
        """
        return cls.make(path, about_of(engine, root))

    @classmethod
    def make(cls, path: str | Path, about: About) -> "Index":
        """As ``create``, for vectors that need not be an engine's."""
        path = Path(path)
        try:
            path.mkdir(exist_ok=True)
            names = [one.name for one in path.iterdir()]
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        if DATABASE not in names:
            if "index.json" in names:
                raise db.no_index(path)
            if not all(map(_OURS.fullmatch, names)):
                raise StoreError(f"{path}: is a folder with other files in it; give a new folder")
        # Readers of an index that was here may still map its vectors.
        generation = max((files.generation_of(name) or 0 for name in names), default=0) + 1
        db.create(path, Header(os.urandom(16), *about, generation))
        index = cls(path)
        index.check_about(about)
        return index

    @property
    def name(self) -> str:
        """Its folder."""
        return str(self.path)

    @cached_property
    def about(self) -> About:
        """What made its vectors."""
        return About(*self._header[1:5])

    def size(self) -> int:
        """Bytes of all files in its folder."""
        return sum(path.stat().st_size for path in self.path.iterdir())

    def __len__(self) -> int:
        """How many images there are."""
        with self._reading() as database:
            return database.header.rows - database.header.deaths

    def entries(self, label: str | None = None) -> list[Entry]:
        """All images, or those of one label, in the order in which they were added."""
        with self._reading() as database:
            return database.entries() if label is None else database.labelled(label)

    def labels(self) -> dict[str | None, int]:
        """How many images each label has, by label; None stands first, for images without one."""
        with self._reading() as database:
            return database.labels()

    def ids(self, start: str = "", stop: str | None = None) -> list[str]:
        """Ids from ``start`` to before ``stop``, sorted."""
        with self._reading() as database:
            return database.ids(start, stop)

    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and unit vectors (n, D) float32 of images, in the order of ``ids``.

        Raises:
            MissingImageError: an id is not in the index.
            StoreError: the row of an image is damaged.
        """
        with self._reading() as database:
            vectors, records = self._vectors(database.header), []
            for name in ids:
                record = database.of_id(name)
                if record is None:
                    raise MissingImageError(f"{self.path}: has no image {name!r}")
                records.append(record)
        self._check_sound(vectors, records, database.header)
        return [record.entry for record in records], np.array(vectors[[record.row for record in records]])

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query, exactly.

        A float32 product finds all that can be among them; these are scored again in float64, in an
        order of additions that does not depend on the row or on the other queries. So two copies of a
        photo tie, and a query gives the same result alone and among others.

        Raises:
            StoreError: the row of an image that may be among them is damaged, NaN or not of length 1; and as
                ``VectorStore.search``, which describes arguments and result.
        """
        queries = self._checked_queries(queries, k)
        while True:
            with self._reading() as database:
                header = database.header
                vectors, hidden = self._vectors(header), self._hidden(database)
                excluded = [record.row for name in exclude if (record := database.of_id(name))]
            if excluded:
                hidden = hidden.copy()
                hidden[excluded] = True
            rows = [
                found
                for start in range(0, len(queries), QUERIES)
                for found in candidates(vectors, hidden, queries[start : start + QUERIES], k)
            ]
            with self._reading() as database:
                # A compaction in between has given other numbers to the rows.
                if _files_of(database.header) == _files_of(header):
                    records = database.of_rows(sorted(set().union(*(found.tolist() for found in rows))))
                    break
        self._check_sound(vectors, records.values(), header)
        results = []
        for query, found in zip(queries, rows, strict=True):
            scores = exact_scores(vectors, found, query)
            ranked = sorted((-score, records[row].entry.id) for score, row in zip(scores, found, strict=True))
            results.append([(name, -score) for score, name in ranked[:k]])
        return results

    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images, or replace those of the same id; on the disk when it returns.

        Args:
            entries: n images.
            vectors: (n, D), of length 1.

        Raises:
            DecompositionError: vectors of another shape or length.
            StoreError: the index cannot be written.
        """
        vectors = self._checked_vectors(entries, vectors)
        last = {entry.id: at for at, entry in enumerate(entries)}
        with self._writing() as database:
            header = database.header
            known, new, replaced = self._vectors(header), [], []
            for name, at in last.items():
                record = database.of_id(name)
                if record is not None:
                    # Two builders of one folder give the same vectors; the second adds nothing.
                    if record.entry == entries[at] and np.array_equal(known[record.row], vectors[at]):
                        continue
                    replaced.append(record.row)
                new.append(at)
            if new:
                path = files.path_of(self.path, header.generation)
                files.write_rows(path, header.rows, [vectors[new]], self.dimension)
                database.bury(replaced)
                added = [entries[at] for at in new]
                database.add(added, [files.checksum(entries[at], vectors[at]) for at in new])
        self._compact(database.header)

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were.

        Raises:
            StoreError: the index cannot be written.
        """
        with self._writing() as database:
            rows = [record.row for name in dict.fromkeys(ids) if (record := database.of_id(name))]
            if rows:
                database.bury(rows)
        self._compact(database.header)
        return len(rows)

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        with db.reading(self.path) as database:
            self._check_same(database.header)
            yield database

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        try:
            with db.writing(self.path) as database:
                self._check_same(database.header)
                self._vectors(database.header)  # before anything is removed, be sure that these are there
                files.remove_others(self.path, database.header.generation)
                yield database
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _check_same(self, header: Header) -> None:
        opened = self.fingerprint, self.dimension, self.root
        if (header.fingerprint, header.dimension, header.root) != opened:
            raise StoreError(
                f"{self.path}: was built anew by {printable(header.model)} for {printable(header.root)} "
                "since it was opened; open it again"
            )

    def _vectors(self, header: Header) -> npt.NDArray[np.float32]:
        """The rows that count (n, D); to be called while a transaction keeps the file from being removed."""
        before = self._mapped
        known = before[1] if before is not None and before[0] == _files_of(header) else None
        path = files.path_of(self.path, header.generation)
        mapped = files.map_rows(path, header.rows, header.dimension, known)
        self._mapped = (_files_of(header), mapped)
        return mapped.rows

    def _hidden(self, database: Database) -> npt.NDArray[np.bool_]:
        """Which rows (n,) are dead; only deaths since the last call are read."""
        header, before = database.header, self._dead
        if before is None or before[0] != _files_of(header) or before[1] > header.deaths:
            before = (_files_of(header), 0, np.zeros(0, bool))
        if (before[1], len(before[2])) == (header.deaths, header.rows):
            return before[2]
        hidden = np.zeros(header.rows, bool)
        known = before[2][: header.rows]  # another thread may have seen a later state
        hidden[: len(known)] = known
        hidden[database.dead_rows(before[1])] = True
        self._dead = (_files_of(header), header.deaths, hidden)
        return hidden

    def _check_sound(
        self, vectors: npt.NDArray[np.float32], records: Collection[Record], header: Header
    ) -> None:
        """Refuse rows that are not what was written."""
        for row, entry, _ in files.damaged_rows(vectors, records):
            raise StoreError(
                f"{files.path_of(self.path, header.generation)}: row {row}, of the image "
                f"{printable(entry.id)}, is damaged; see how much is with: simmap index check {self.path}, "
                "then build the index anew"
            )

    def _compact(self, header: Header) -> None:
        """Copy the live rows to the file of the next generation, if many rows are dead."""
        if not _is_sparse(header):
            return
        # What was asked for is done; a copy for which there is no room is tried again by the next write.
        with suppress(StoreError), self._writing() as database:
            header = database.header
            if _is_sparse(header):
                vectors, live = self._vectors(header), np.flatnonzero(~self._hidden(database))
                step = max(1, CHUNK // (4 * header.dimension))
                blocks = (vectors[live[start : start + step]] for start in range(0, len(live), step))
                path = files.path_of(self.path, header.generation + 1)
                files.write_rows(path, 0, blocks, header.dimension)
                database.compact()
        with suppress(StoreError), self._writing():
            pass  # removes the file that no longer counts, be it the old one or a part of the new


def _is_sparse(header: Header) -> bool:
    return header.deaths > max(COMPACT_ROWS, (header.rows - header.deaths) // 2)


def _files_of(header: Header) -> tuple[bytes, int]:
    return header.token, header.generation
