"""An index of images: their unit embeddings on disk, searched exactly.

A folder of three files. ``vectors-G.f32`` holds the vectors, little-endian float32 (rows, D);
``images-G.jsonl`` is a log of one JSON list a line, ``[id, label, height, width, bytes, mtime_ns]`` for
the next row of the vectors, or ``[id]`` for a removal; ``index.json`` says which model made them and how
many rows and bytes of the two count. Both files only grow, and what counts changes with the one rename of
``index.json``: a writer that is killed leaves the old state or the new, and readers never wait. When many
rows are dead, a writer copies the live ones to files of the next generation G.
"""

import json
import os
import re
import sys
import threading
import zlib
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine import Engine
from ..errors import DecompositionError, OutputError, StoreError
from ..files import absolute, replacing
from ..schema import from_mapping
from ..types import Array
from .scan import CHUNK, QUERIES, candidates, exact_scores
from .store import Entry, identity, short_identity

SCHEMA = 1
MANIFEST = "index.json"
COMPACT_ROWS = 1024  # dead rows that are never worth a copy of the live ones
PARSED = 1 << 20  # bytes of the log that are parsed at a time


@dataclass(frozen=True)
class _Manifest:
    """The content of ``index.json``; all but the last four never change."""

    schema: int
    model: str
    fingerprint: str
    dimension: int
    root: str
    generation: int = 1
    rows: int = 0
    log_bytes: int = 0
    log_crc: int = 0  # CRC-32 of the log, so that an index made anew in its place is not taken for it


class _State:
    """What the files say, up to a manifest.

    In columns, since a million tuples take twice the memory and the time.
    """

    def __init__(self, manifest: _Manifest) -> None:
        """Of an empty index."""
        self.manifest = replace(manifest, rows=0, log_bytes=0, log_crc=0)
        self.ids: list[str] = []  # of every row, dead ones too
        self.labels: list[str | None] = []
        self.numbers = array("q")  # the last four of every row's entry
        self.dead = bytearray()  # 1 for a row that was replaced or removed
        self.row_of: dict[str, int] = {}  # of the live images
        self.vectors: npt.NDArray[np.float32] = np.zeros((0, manifest.dimension), np.float32)
        self.file: tuple[int, int] | None = None  # device and inode behind the vectors

    def entry(self, row: int) -> Entry:
        return Entry(self.ids[row], self.labels[row], *self.numbers[4 * row : 4 * row + 4])

    def replay(self, log: bytes) -> None:
        start = 0
        while start < len(log):
            end = log.find(b"\n", start + PARSED) + 1 or len(log)
            for line in json.loads(b"[" + log[start : end - 1].replace(b"\n", b",") + b"]"):
                name = line[0]
                old = self.row_of.pop(name, None)
                if old is not None:
                    self.dead[old] = 1
                if len(line) > 1:
                    self.row_of[name] = len(self.ids)
                    self.ids.append(name)
                    # Classes are few and images many: one string each.
                    self.labels.append(None if line[1] is None else sys.intern(line[1]))
                    self.numbers.extend(line[2:])
                    self.dead.append(0)
            start = end


class Index:
    """An index on disk; a ``VectorStore``.

    Several threads and processes may read and write at the same time.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the index in the folder ``path``.

        Raises:
            StoreError: there is no index, it is damaged, or a newer simmap made it.
        """
        self.path = Path(path)
        self._guard = threading.RLock()
        self._state = self._load()

    @classmethod
    def create(cls, path: str | Path, engine: Engine, root: str | Path) -> "Index":
        """An empty index for the vectors of ``engine``, of images below the folder ``root``.

        An index that is there already, of the same model and root, is opened as it is.

        Raises:
            StoreError: the folder is another index or holds other files, or cannot be written.
        """
        path, root = Path(path), absolute(root)
        try:
            path.mkdir(exist_ok=True)
            if not (path / MANIFEST).exists() and not all(_is_ours(p.name) for p in path.iterdir()):
                raise StoreError(f"{path}: is a folder with other files in it; give a new folder")
            with _locked(path):
                if not (path / MANIFEST).exists():
                    # Not to be written over: a reader may still look at what was here.
                    _remove_stale(path, 0)
                    model, dimension = absolute(engine.model), engine.contract.dimension
                    _write_manifest(path, _Manifest(SCHEMA, model, identity(engine), dimension, root))
        except OutputError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        index = cls(path)
        index.check_model(engine)
        if index.root != root:
            raise StoreError(
                f"{path}: is the index of the folder {index.root}; give another -o, or add to it with: "
                f"simmap index add {path} {root}"
            )
        return index

    @property
    def root(self) -> str:
        """The folder that ids are relative to."""
        return self._state.manifest.root

    @property
    def model(self) -> str:
        """The file of the model that made the vectors, as it was then."""
        return self._state.manifest.model

    @property
    def fingerprint(self) -> str:
        """What tells this model's vectors from another's; see ``identity``."""
        return self._state.manifest.fingerprint

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return self._state.manifest.dimension

    def path_of(self, name: str) -> str:
        """The file of the image with the id ``name``."""
        return str(Path(self.root) / name)

    def id_of(self, path: str | Path) -> str:
        """The id of the image file ``path``."""
        whole = Path(absolute(path))
        return str(whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole)

    def check_model(self, engine: Engine) -> None:
        """Refuse to mix the vectors of two models.

        Raises:
            StoreError: another model than the engine's made this index.
        """
        if self.fingerprint != identity(engine):
            raise StoreError(
                f"{self.path}: was built by another model, {self.model} "
                f"({short_identity(self.fingerprint)}), not by {engine.model} "
                f"({short_identity(identity(engine))}); use that model, or build the index anew"
            )

    def __len__(self) -> int:
        """How many images there are."""
        with self._guard:
            return len(self._fresh().row_of)

    def entries(self) -> list[Entry]:
        """All images, in the order in which they were added."""
        with self._guard:
            state = self._fresh()
            return [state.entry(row) for row, dead in enumerate(state.dead) if not dead]

    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and unit vectors (n, D) float32 of images, in the order of ``ids``.

        Raises:
            StoreError: an id is not in the index.
        """
        with self._guard:
            state = self._fresh()
            for name in ids:
                if name not in state.row_of:
                    raise StoreError(f"{self.path}: has no image {name!r}")
            rows = [state.row_of[name] for name in ids]
            return [state.entry(row) for row in rows], np.array(state.vectors[rows], np.float32)

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query, exactly.

        A float32 product finds all that can be among them; these are scored again in float64, in an
        order of additions that does not depend on the row or on the other queries. So two copies of a
        photo tie, and a query gives the same result alone and among others.

        Args:
            queries: (m, D); need not be unit, so that a region's query vector is one.
            k: how many; all, where there are fewer.
            exclude: ids to leave out.

        Returns:
            For each query its ids and scores, largest first; equal scores by id.

        Raises:
            DecompositionError: the queries have another shape, NaN or infinite values, or k is below 1.
        """
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise DecompositionError(
                f"queries have shape {queries.shape}, must be (m, {self.dimension}) for {self.path}"
            )
        if not np.isfinite(queries).all():
            raise DecompositionError("a query has NaN or infinite values, so nothing is similar to it")
        if k < 1:
            raise DecompositionError(f"k is {k}, must be 1 or more")
        with self._guard:
            state = self._fresh()
            vectors, ids = state.vectors, state.ids
            hidden = np.array(state.dead, bool)
            hidden[[state.row_of[name] for name in exclude if name in state.row_of]] = True
        results = []
        for start in range(0, len(queries), QUERIES):
            group = queries[start : start + QUERIES]
            for query, rows in zip(group, candidates(vectors, hidden, group, k), strict=True):
                scores = exact_scores(vectors, rows, query)
                ranked = sorted((-score, ids[row]) for score, row in zip(scores, rows, strict=True))
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
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape != (len(entries), self.dimension):
            raise DecompositionError(
                f"vectors have shape {vectors.shape}, must be {(len(entries), self.dimension)}"
            )
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all():
            raise DecompositionError("vectors of an index must have length 1; take decompose.unit of them")
        last = {entry.id: at for at, entry in enumerate(entries)}
        with self._writing() as state:
            new = []
            for name, at in last.items():
                row = state.row_of.get(name)
                # Two builders of one folder give the same vectors; the second adds nothing.
                same = row is not None and state.entry(row) == entries[at]
                if not (same and np.array_equal(state.vectors[row], vectors[at])):
                    new.append(at)
            if new:
                self._append(state, [list(entries[at]) for at in new], vectors[new])

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were.

        Raises:
            StoreError: the index cannot be written.
        """
        with self._writing() as state:
            known = [name for name in dict.fromkeys(ids) if name in state.row_of]
            if known:
                self._append(state, [[name] for name in known], np.empty((0, self.dimension), np.float32))
            return len(known)

    # --- files ----------------------------------------------------------------------------------

    def _files(self, generation: int) -> tuple[Path, Path]:
        return self.path / f"vectors-{generation}.f32", self.path / f"images-{generation}.jsonl"

    def _load(self) -> _State:
        """The whole state, read anew."""
        manifest = _read_manifest(self.path)
        while True:
            state = _State(manifest)
            try:
                self._read(state, manifest)
                return state
            except (OSError, StoreError) as error:
                failed = error
            latest = _read_manifest(self.path)
            if latest == manifest:
                break
            # A writer has just moved on to files of the next generation.
            manifest = latest
        if isinstance(failed, FileNotFoundError):
            raise StoreError(f"{failed.filename}: is missing; build the index anew") from failed
        if isinstance(failed, OSError):
            raise StoreError(f"{self.path}: cannot be read: {failed.strerror or failed}") from failed
        raise failed

    def _fresh(self) -> _State:
        """The state after any other process's last write."""
        with self._guard:
            state, new = self._state, _read_manifest(self.path)
            if _same_files(state.manifest, new):
                with suppress(OSError, StoreError):
                    self._read(state, new)
                    return state
            state = self._load()
            if (state.manifest.fingerprint, state.manifest.root) != (self.fingerprint, self.root):
                raise StoreError(
                    f"{self.path}: was built anew by {state.manifest.model} for {state.manifest.root} since "
                    "it was opened; open it again"
                )
            self._state = state
            return state

    def _read(self, state: _State, new: _Manifest) -> None:
        """Bring ``state`` from its own manifest to a ``new`` one of the same files."""
        old = state.manifest
        if new == old and not new.rows:
            return
        data, log = self._files(new.generation)
        with data.open("rb") as stream:
            status = os.fstat(stream.fileno())
            file = (status.st_dev, status.st_ino)
            if status.st_size < new.rows * 4 * new.dimension:
                raise StoreError(
                    f"{data}: is damaged, it is shorter than {MANIFEST} says; build the index anew"
                )
            if state.file not in (None, file):
                raise StoreError(f"{data}: is another file than was opened; open the index again")
            if new == old:
                return
            vectors = np.memmap(stream, "<f4", "r", shape=(new.rows, new.dimension))
        with log.open("rb") as stream:
            stream.seek(old.log_bytes)
            size = new.log_bytes - old.log_bytes
            # A damaged manifest may ask for more than there is memory.
            enough = size >= 0 and new.log_bytes <= os.fstat(stream.fileno()).st_size
            text = stream.read(size) if enough else b""
        if not enough or zlib.crc32(text, old.log_crc) != new.log_crc:
            raise StoreError(f"{log}: is damaged; build the index anew")
        try:
            state.replay(text)
        except (ValueError, TypeError, LookupError) as error:
            raise StoreError(f"{log}: is damaged ({error}); build the index anew") from error
        if not len(state.ids) == len(state.numbers) / 4 == new.rows:
            raise StoreError(
                f"{log}: is damaged, it has {len(state.ids)} rows, not {new.rows}; build the index anew"
            )
        state.vectors, state.file = np.asarray(vectors), file
        state.manifest = new  # last, so that an interrupt before it leads to a new reading

    @contextmanager
    def _writing(self) -> Iterator[_State]:
        """The state, with other writers kept out while readers go on."""
        try:
            with _locked(self.path):
                state = self._fresh()
                _remove_stale(self.path, state.manifest.generation)
                yield state
        except OutputError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _append(self, state: _State, lines: list[list[Any]], vectors: Array) -> None:
        manifest = state.manifest
        data, log = self._files(manifest.generation)
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        _write_at(data, manifest.rows * 4 * manifest.dimension, vectors.astype("<f4").tobytes())
        _write_at(log, manifest.log_bytes, text)
        _write_manifest(
            self.path,
            replace(
                manifest,
                rows=manifest.rows + len(vectors),
                log_bytes=manifest.log_bytes + len(text),
                log_crc=zlib.crc32(text, manifest.log_crc),
            ),
        )
        state = self._fresh()
        if len(state.ids) - len(state.row_of) > max(COMPACT_ROWS, len(state.row_of) // 2):
            self._compact(state)

    def _compact(self, state: _State) -> None:
        """Copy the live rows to files of the next generation."""
        manifest = state.manifest
        data, log = self._files(manifest.generation + 1)
        rows = [row for row, dead in enumerate(state.dead) if not dead]
        step = max(1, CHUNK // (4 * manifest.dimension))
        text = "".join(json.dumps(list(state.entry(row))) + "\n" for row in rows).encode()
        try:
            with data.open("wb") as stream:
                for start in range(0, len(rows), step):
                    stream.write(state.vectors[rows[start : start + step]].tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            _write_at(log, 0, text)
            new = replace(
                manifest,
                generation=manifest.generation + 1,
                rows=len(rows),
                log_bytes=len(text),
                log_crc=zlib.crc32(text),
            )
            _write_manifest(self.path, new)
        except (OSError, OutputError):
            # What was asked for is done; without the room for a copy, the next write tries again.
            _remove_stale(self.path, manifest.generation)
            return
        _remove_stale(self.path, manifest.generation + 1)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out for as long as one write takes; a killed writer's lock goes with it."""
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            f"{folder}: can be written on Linux or macOS only, for want of file locks"
        ) from error
    path = folder / "lock"
    while True:
        with path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # The folder may have been removed and made anew while this waited.
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                yield
                return


_OURS = re.compile(r"index\.json|lock|\.index\.json\..*|(?:vectors-(\d+)\.f32|images-(\d+)\.jsonl)")


def _is_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None


def _remove_stale(folder: Path, generation: int) -> None:
    """Remove what killed writers left, and the files of other generations."""
    for path in folder.iterdir():
        found = _OURS.fullmatch(path.name)
        number = found and (found[1] or found[2])
        if found and (path.name.startswith(".") or (number and int(number) != generation)):
            path.unlink(missing_ok=True)


def _same_files(old: _Manifest, new: _Manifest) -> bool:
    return replace(old, rows=new.rows, log_bytes=new.log_bytes, log_crc=new.log_crc) == new


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_bytes())
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise StoreError(
                f"{folder}: has schema {data['schema']}, this simmap reads up to {SCHEMA}; upgrade"
            )
        manifest: _Manifest = from_mapping(_Manifest, data, MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"{folder}: is no index; make one with: simmap index build IMAGES -o {folder}"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: is damaged ({error}); build the index anew") from error
    whole = min(manifest.schema, manifest.dimension, manifest.generation) > 0
    if not whole or min(manifest.rows, manifest.log_bytes) < 0 or (not manifest.rows and manifest.log_bytes):
        raise StoreError(f"{path}: is damaged; build the index anew")
    return manifest


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    with replacing(folder / MANIFEST, force=True) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Append at ``offset``, over what a killed writer left behind it; on the disk on return."""
    with path.open("r+b" if offset else "wb") as stream:
        if stream.seek(0, os.SEEK_END) < offset:
            raise StoreError(f"{path}: is damaged, it is shorter than {MANIFEST} says; build the index anew")
        stream.truncate(offset)
        stream.seek(offset)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
