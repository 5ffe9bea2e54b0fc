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
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from simmap.engine import decompose
from simmap.engine.artifact import from_mapping
from simmap.engine.dataset import Item
from simmap.engine.decompose import Array
from simmap.engine.errors import DecompositionError, ImageError, OutputError, SimmapError, StoreError
from simmap.engine.files import replacing
from simmap.engine.image import Source
from simmap.engine.pipeline import Engine

SCHEMA = 1
MANIFEST = "index.json"
CHUNK = 1 << 26  # bytes of vectors that are scored at a time
COMMIT_ROWS, COMMIT_SECONDS = 256, 2.0
TRIES = 20  # to open what a writer is moving to the next generation


class Entry(NamedTuple):
    """What an index keeps of an image beside its vector.

    Attributes:
        id: the path relative to the index's root, or absolute for an image elsewhere.
        label: its class, or None.
        height, width: pixels of the photo, EXIF orientation applied.
        bytes, mtime_ns: of the file when it was embedded; tell whether it has changed since.
    """

    id: str
    label: str | None
    height: int
    width: int
    bytes: int
    mtime_ns: int


class VectorStore(Protocol):
    """What a search needs of a database; ``Index`` is the one without a server.

    Ids are text, ``upsert`` replaces, a write is visible when it returns, equal scores rank by id.
    """

    def __len__(self) -> int:
        """How many images there are."""

    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images with their unit vectors (n, D), or replace those of the same id."""

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not there are no error. Returns how many were."""

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """Ids and scores of the ``k`` largest inner products with each of ``queries`` (m, D)."""

    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and vectors (n, D) of images, in the order of ``ids``."""

    def check_model(self, engine: Engine) -> None:
        """Raise StoreError if another model than the engine's made the vectors."""

    def id_of(self, path: str | Path) -> str:
        """The id of an image file."""

    def path_of(self, name: str) -> str:
        """The file of the image with the id ``name``."""


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


@dataclass
class _State:
    """What the files say, up to a manifest."""

    manifest: _Manifest
    entries: list[Entry] = field(default_factory=list)  # of every row, dead ones too
    row_of: dict[str, int] = field(default_factory=dict)  # of the live images
    dead: set[int] = field(default_factory=set)
    vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def replay(self, lines: Iterable[list[Any]]) -> None:
        for line in lines:
            old = self.row_of.pop(line[0], None)
            if old is not None:
                self.dead.add(old)
            if len(line) > 1:
                self.row_of[line[0]] = len(self.entries)
                # Classes are few and images many: one string each.
                label = None if line[1] is None else sys.intern(line[1])
                self.entries.append(Entry(line[0], label, *line[2:]))


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
        path, root = Path(path), _absolute(root)
        try:
            path.mkdir(exist_ok=True)
            with _locked(path):
                if not (path / MANIFEST).exists():
                    other = [entry.name for entry in path.iterdir() if not _is_ours(entry.name)]
                    if other:
                        raise StoreError(f"{path}: is a folder with other files in it; give a new folder")
                    _write_manifest(
                        path,
                        _Manifest(
                            SCHEMA, _absolute(engine.model), identity(engine), engine.contract.dimension, root
                        ),
                    )
        except OSError as error:
            raise StoreError(f"{path}: cannot be made a folder: {error.strerror}") from error
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
        absolute = Path(_absolute(path))
        return str(absolute.relative_to(self.root) if absolute.is_relative_to(self.root) else absolute)

    def check_model(self, engine: Engine) -> None:
        """Refuse to mix the vectors of two models.

        Raises:
            StoreError: another model than the engine's made this index.
        """
        if self.fingerprint != identity(engine):
            raise StoreError(
                f"{self.path}: was built by another model, {self.model} ({self.fingerprint[:16]}), not by "
                f"{engine.model} ({identity(engine)[:16]}); use that model, or build the index anew"
            )

    def __len__(self) -> int:
        """How many images there are."""
        with self._guard:
            return len(self._fresh().row_of)

    def entries(self) -> list[Entry]:
        """All images, in the order in which they were added."""
        with self._guard:
            state = self._fresh()
            return [entry for row, entry in enumerate(state.entries) if row not in state.dead]

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
            return [state.entries[row] for row in rows], np.array(state.vectors[rows], np.float32)

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query, exactly.

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
            vectors, entries = state.vectors, state.entries
            hidden = np.zeros(len(vectors), bool)
            hidden[list(state.dead)] = True
            hidden[[state.row_of[name] for name in exclude if name in state.row_of]] = True
        best = [(np.empty(0, np.float32), np.empty(0, np.intp)) for _ in queries]
        step = max(1, CHUNK // (4 * self.dimension))
        for start in range(0, len(vectors), step):
            shown = np.flatnonzero(~hidden[start : start + step])
            block = queries @ vectors[start : start + step].T
            for at, found in enumerate(block):
                best[at] = _best(*best[at], found[shown], shown + start, k)
        results = []
        for scores, rows in best:
            ranked = sorted((-float(s), entries[row].id) for s, row in zip(scores, rows, strict=True))
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
        with self._guard:
            state = self._fresh()
            # Two builders of one folder give the same vectors; the second adds nothing.
            new = [
                at
                for at, entry in enumerate(entries)
                if (row := state.row_of.get(entry.id)) is None
                or state.entries[row] != entry
                or not np.array_equal(state.vectors[row], vectors[at])
            ]
            if new:
                self._append([list(entries[at]) for at in new], vectors[new])

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were.

        Raises:
            StoreError: the index cannot be written.
        """
        with self._guard:
            known = [name for name in dict.fromkeys(ids) if name in self._fresh().row_of]
            if known:
                self._append([[name] for name in known], np.empty((0, self.dimension), np.float32))
            return len(known)

    # --- files ----------------------------------------------------------------------------------

    def _files(self, generation: int) -> tuple[Path, Path]:
        return self.path / f"vectors-{generation}.f32", self.path / f"images-{generation}.jsonl"

    def _load(self) -> _State:
        """The whole state, read anew."""
        for attempt in range(TRIES):
            try:
                manifest = _read_manifest(self.path)
                state = _State(replace(manifest, rows=0, log_bytes=0, log_crc=0))
                self._read(state, manifest)
                return state
            except FileNotFoundError as error:
                # A writer has just moved on to the next generation of files, or they are gone.
                if attempt == TRIES - 1:
                    raise StoreError(f"{self.path}: lacks {error.filename}; build the index anew") from error
                time.sleep(0.01)
        raise AssertionError("unreachable")

    def _fresh(self) -> _State:
        """The state after any other process's last write."""
        old, new = self._state.manifest, _read_manifest(self.path)
        if new == old:
            return self._state
        if replace(old, rows=new.rows, log_bytes=new.log_bytes, log_crc=new.log_crc) == new:
            with suppress(FileNotFoundError, StoreError):
                self._read(self._state, new)
                return self._state
        self._state = self._load()
        return self._state

    def _read(self, state: _State, new: _Manifest) -> None:
        """Bring ``state`` from its own manifest to a ``new`` one of the same generation."""
        old = state.manifest
        data, log = self._files(new.generation)
        size = new.log_bytes - old.log_bytes
        if new == old:
            return
        with log.open("rb") as stream:
            stream.seek(old.log_bytes)
            text = stream.read(max(size, 0))
        if zlib.crc32(text, old.log_crc) != new.log_crc:
            raise StoreError(f"{log}: is damaged; build the index anew")
        if data.stat().st_size < new.rows * 4 * new.dimension:
            raise StoreError(f"{data}: is damaged, it is shorter than {MANIFEST} says; build the index anew")
        try:
            state.replay(json.loads(b"[" + text.replace(b"\n", b",").rstrip(b",") + b"]"))
        except (ValueError, TypeError, IndexError) as error:
            raise StoreError(f"{log}: is damaged ({error}); build the index anew") from error
        if len(state.entries) != new.rows:
            raise StoreError(
                f"{log}: is damaged, it has {len(state.entries)} rows, not {new.rows}; build anew"
            )
        state.manifest = new
        if new.rows:
            shape = (new.rows, new.dimension)
            state.vectors = np.asarray(np.memmap(data, "<f4", "r", shape=shape))

    def _append(self, lines: list[list[Any]], vectors: Array) -> None:
        try:
            with self._guard, _locked(self.path):
                state = self._fresh()
                manifest = state.manifest
                for stale in self.path.iterdir():
                    if _is_stale(stale.name, manifest.generation):
                        stale.unlink(missing_ok=True)
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
                if len(state.dead) > max(1024, len(state.row_of) // 2):
                    # What was asked for is done; without the room to compact, the next write tries again.
                    with suppress(OSError, OutputError):
                        self._compact(state)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _compact(self, state: _State) -> None:
        """Copy the live rows to files of the next generation."""
        manifest = state.manifest
        data, log = self._files(manifest.generation + 1)
        rows = [row for row in range(len(state.entries)) if row not in state.dead]
        step = max(1, CHUNK // (4 * manifest.dimension))
        with data.open("wb") as stream:
            for start in range(0, len(rows), step):
                stream.write(state.vectors[rows[start : start + step]].tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        text = "".join(json.dumps(list(state.entries[row])) + "\n" for row in rows).encode()
        log.unlink(missing_ok=True)
        _write_at(log, 0, text)
        _write_manifest(
            self.path,
            replace(
                manifest,
                generation=manifest.generation + 1,
                rows=len(rows),
                log_bytes=len(text),
                log_crc=zlib.crc32(text),
            ),
        )
        for old in self._files(manifest.generation):
            old.unlink(missing_ok=True)
        self._state = self._load()


def identity(engine: Engine) -> str:
    """What tells one engine's vectors from another's: the weights' fingerprint and the input size."""
    size = engine.options.size
    return engine.contract.fingerprint + ("" if size is None else f"@{size[0]}x{size[1]}")


@dataclass(frozen=True)
class Update:
    """What ``update`` did.

    Attributes:
        added: images embedded and written, changed ones among them.
        kept: images that were there already.
        removed: images that were there and are no longer.
        skipped: path and error of the images that cannot be embedded.
    """

    added: int
    kept: int
    removed: int
    skipped: tuple[tuple[str, str], ...]


def update(
    index: Index,
    engine: Engine,
    items: Sequence[Item],
    *,
    prune: bool = False,
    strict: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Update:
    """Embed the images that the index lacks, or whose files have changed, and add them.

    An image that was there and can no longer be embedded is removed.

    What is embedded is written every few seconds, also when an error or an interrupt ends the run: the
    next run goes on from there, and ends with the same files as a run that was not disturbed.

    Args:
        index: where to.
        engine: with the model of the index.
        items: the images.
        prune: remove other images below the index's root, whose files have gone.
        strict: raise the error of an image that cannot be embedded, instead of leaving it out.
        on_progress: called with the images done, which are on the disk, and their total.

    Raises:
        StoreError: the index is of another model, or cannot be written.
        ImageError: with ``strict``, an image that cannot be embedded.
    """
    index.check_model(engine)
    known = {entry.id: entry for entry in index.entries()}
    skipped: list[tuple[str, str]] = []
    items = list({item.path: item for item in items}.values())
    todo: list[tuple[Item, Entry]] = []
    relabelled: list[Entry] = []
    kept = 0
    for item in items:
        try:
            status = Path(item.path).stat()
        except OSError as error:
            if strict:
                raise ImageError(f"{item.path}: cannot be read: {error.strerror}") from error
            skipped.append((item.path, f"{item.path}: cannot be read: {error.strerror}"))
            continue
        name = index.id_of(item.path)
        entry = Entry(name, item.label, 0, 0, status.st_size, status.st_mtime_ns)
        old = known.get(name)
        if old is None or old[4:] != entry[4:]:
            todo.append((item, entry))
            continue
        kept += 1
        if old.label != item.label:
            relabelled.append(old._replace(label=item.label))
    if relabelled:
        _, vectors = index.get([entry.id for entry in relabelled])
        index.upsert(relabelled, vectors)

    refused: set[str] = set()
    ready: list[tuple[Entry, Array]] = []
    done, started = kept + len(skipped), time.monotonic()

    def commit() -> None:
        nonlocal done, started
        if ready:
            index.upsert([entry for entry, _ in ready], np.array([vector for _, vector in ready]))
        done += len(ready)
        ready.clear()
        started = time.monotonic()
        if on_progress is not None:
            on_progress(done, len(items))

    def refuse(source: Source, error: SimmapError) -> None:
        nonlocal done
        done += 1
        refused.add(str(source))
        skipped.append((str(source), str(error)))

    waiting = deque(todo)
    try:
        for vector in engine.vectors([item.path for item, _ in todo], on_error=None if strict else refuse):
            while waiting[0][0].path in refused:
                waiting.popleft()
            _, entry = waiting.popleft()
            height, width = vector.geometry.photo_height, vector.geometry.photo_width
            ready.append((entry._replace(height=height, width=width), decompose.unit(vector.embedding)))
            if len(ready) == COMMIT_ROWS or time.monotonic() - started > COMMIT_SECONDS:
                commit()
    finally:
        commit()
    gone = {index.id_of(path) for path, _ in skipped} & known.keys()
    if prune:
        # An image from elsewhere has an absolute path for its id.
        present = {index.id_of(item.path) for item in items}
        gone |= {name for name in known if name not in present and not Path(name).is_absolute()}
    removed = index.delete(sorted(gone))
    return Update(len(todo) - len(refused), kept, removed, tuple(skipped))


# --- files --------------------------------------------------------------------------------------


def _absolute(path: str | Path) -> str:
    # Not resolve(): two links to one photo are two images.
    return os.path.abspath(path)  # noqa: PTH100


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out for as long as one write takes; a killed writer's lock goes with it."""
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            f"{folder}: can be written on Linux or macOS only, for want of file locks"
        ) from error
    with (folder / "lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


_OURS = re.compile(r"index\.json|lock|\.index\.json\..*|(?:vectors-(\d+)\.f32|images-(\d+)\.jsonl)")


def _is_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None


def _is_stale(name: str, generation: int) -> bool:
    """What a killed writer left, or a reader on another system kept from being removed."""
    found = _OURS.fullmatch(name)
    if found is None:
        return False
    number = found[1] or found[2]
    return name.startswith(".") if number is None else int(number) != generation


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
    if manifest.dimension < 1 or min(manifest.generation, manifest.rows, manifest.log_bytes) < 0:
        raise StoreError(f"{path}: is damaged; build the index anew")
    return manifest


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    with replacing(folder / MANIFEST, force=True) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Append at ``offset``, over what a killed writer left behind it; on the disk on return."""
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.truncate(offset)
        stream.seek(offset)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _best(
    scores: npt.NDArray[np.float32],
    rows: npt.NDArray[np.intp],
    more_scores: npt.NDArray[np.float32],
    more_rows: npt.NDArray[np.intp],
    k: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """The ``k`` best of both, in no order, and all that tie with the last of them."""
    if len(scores) >= k:
        keep = more_scores >= scores.min()
        more_scores, more_rows = more_scores[keep], more_rows[keep]
    scores, rows = np.concatenate([scores, more_scores]), np.concatenate([rows, more_rows])
    if len(scores) > k:
        keep = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        scores, rows = scores[keep], rows[keep]
    return scores, rows
