"""What an index knows beside its vectors, in one SQLite file.

A rollback journal, not a write-ahead log: the log needs memory that processes share, so it fails on network
file systems and in folders that cannot be written, and an index would be up to three files. Its price is that
a commit waits for readers and they for it. So transactions of readers are short: a scan of the vectors runs
outside of them, which is safe since a row never changes in one generation of the vectors.

A connection lives for one operation: none is shared by threads or inherited by a fork, and none keeps a file
open. File names, labels and other text are stored as UTF-8 bytes, since names may hold undecodable bytes
(lone surrogates); such bytes sort as the text does. Modification times are decimal text, since nanoseconds
of years after 2262 do not fit 64 bits.
"""

import errno
import os
import sqlite3
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import StoreError, printable
from ..files import absolute
from .store import Entry

DATABASE = "index.sqlite"
SCHEMA = 2
APPLICATION_ID = int.from_bytes(b"simm")
WAIT = 60.0  # seconds for the write of another process

_TABLES = (
    "CREATE TABLE header (token BLOB, model BLOB, fingerprint BLOB, dimension INTEGER, root BLOB,"
    " generation INTEGER, rows INTEGER, deaths INTEGER, checksum INTEGER)",
    # A row stays as it is when its image is replaced or removed; `dead` then numbers the deaths from 1.
    "CREATE TABLE images (row INTEGER PRIMARY KEY, id BLOB, label BLOB, height INTEGER, width INTEGER,"
    " bytes INTEGER, mtime_ns TEXT, checksum INTEGER, dead INTEGER)",
    "CREATE UNIQUE INDEX live ON images (id) WHERE dead IS NULL",
    "CREATE INDEX labels ON images (label) WHERE dead IS NULL",
    "CREATE INDEX deaths ON images (dead) WHERE dead IS NOT NULL",
)
_RECORD = "row, id, label, height, width, bytes, mtime_ns, checksum"


class Header(NamedTuple):
    """The one row about the whole index.

    Attributes:
        token: random bytes that tell an index built anew in the same folder from the old one.
        model: the file of the model that made the vectors.
        fingerprint: see ``identity``.
        dimension: D of the vectors.
        root: the folder that ids are relative to.
        generation: number of the file of vectors; each compaction adds 1.
        rows: of that file which count, dead ones too.
        deaths: rows that were replaced or removed.
    """

    token: bytes
    model: str
    fingerprint: str
    dimension: int
    root: str
    generation: int
    rows: int = 0
    deaths: int = 0

    def checksum(self) -> int:
        """CRC-32 of all of it."""
        return zlib.crc32(ascii(tuple(self)).encode())


class Record(NamedTuple):
    """One image: its row in the file of vectors, its entry, and the checksum of both (see ``vectors``)."""

    row: int
    entry: Entry
    checksum: int


class Database:
    """One transaction on an index; made by ``reading`` and ``writing``."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        """Of an open transaction.

        Raises:
            StoreError: the file is not an index of this schema, or is damaged.
        """
        self._connection, self._folder = connection, folder
        _check_schema(connection, folder)
        self.header = self._read_header()

    def _read_header(self) -> Header:
        with self._named_damage():
            ((token, model, fingerprint, dimension, root, *counts, checksum),) = self._query(
                "SELECT * FROM header"
            )
            texts = _text(model), _text(fingerprint), int(dimension), _text(root)
            header = Header(token, *texts, *map(int, counts))
            if checksum != header.checksum():
                raise ValueError("its header has another checksum")
            if not 0 <= header.deaths <= header.rows or min(header.dimension, header.generation) < 1:
                raise ValueError("its header has invalid counts")
        return header

    def of_id(self, name: str) -> Record | None:
        """The live image with the id ``name``."""
        records = self._records("dead IS NULL AND id = ?", _bytes(name))
        return records[0] if records else None

    def of_rows(self, rows: Sequence[int]) -> dict[int, Record]:
        """The images of rows, whether they are live or not."""
        sql = f"SELECT {_RECORD} FROM images WHERE row = ?"
        with self._named_damage():
            # A row that is missing gives None, which is no record.
            return {row: self._record(self._connection.execute(sql, (row,)).fetchone()) for row in rows}

    def records(self, start: int, stop: int) -> list[Record]:
        """The live images of the rows from ``start`` to before ``stop``, in their order."""
        return self._records("dead IS NULL AND row >= ? AND row < ? ORDER BY row", start, stop)

    def entries(self) -> list[Entry]:
        """Of all live images, in the order of their rows."""
        return [record.entry for record in self._records("dead IS NULL ORDER BY row")]

    def labelled(self, label: str) -> list[Entry]:
        """Entries of the live images of one class, in the order of their rows."""
        return [r.entry for r in self._records("dead IS NULL AND label = ? ORDER BY row", _bytes(label))]

    def labels(self) -> dict[str | None, int]:
        """How many live images each label has."""
        with self._named_damage():
            counts = self._query("SELECT label, count(*) FROM images WHERE dead IS NULL GROUP BY label")
            return {None if label is None else _text(label): int(count) for label, count in counts}

    def ids(self, start: str = "", stop: str | None = None) -> list[str]:
        """Ids of the live images from ``start`` to before ``stop``, sorted."""
        condition, values = "id >= ?", [_bytes(start)]
        if stop is not None:
            condition, values = f"{condition} AND id < ?", [*values, _bytes(stop)]
        with self._named_damage():
            rows = self._query(
                f"SELECT id FROM images WHERE dead IS NULL AND {condition} ORDER BY id", *values
            )
            return [_text(name) for (name,) in rows]

    def dead_rows(self, after: int) -> list[int]:
        """Rows of all deaths but the first ``after``."""
        with self._named_damage():
            rows = self._query("SELECT row FROM images WHERE dead IS NOT NULL AND dead > ?", after)
            if len(rows) != self.header.deaths - after:
                raise ValueError(f"it has not the {self.header.deaths} dead rows that it should have")
            return [self._check_row(row) for (row,) in rows]

    def add(self, entries: Sequence[Entry], checksums: Sequence[int]) -> None:
        """Give images the next rows; dead rows of the same ids must be marked before."""
        self._connection.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                (
                    row,
                    _bytes(e.id),
                    None if e.label is None else _bytes(e.label),
                    *e[2:5],
                    str(e[5]),
                    checksum,
                )
                for row, (e, checksum) in enumerate(zip(entries, checksums, strict=True), self.header.rows)
            ),
        )
        self._set(rows=self.header.rows + len(entries))

    def bury(self, rows: Sequence[int]) -> None:
        """Mark rows as dead."""
        numbers = enumerate(rows, self.header.deaths + 1)
        self._connection.executemany("UPDATE images SET dead = ? WHERE row = ?", numbers)
        self._set(deaths=self.header.deaths + len(rows))

    def compact(self) -> None:
        """Forget dead rows; live ones get the numbers from 0 in the next generation."""
        self._connection.execute(
            f"CREATE TEMP TABLE kept AS SELECT {_RECORD}, dead FROM images WHERE dead IS NULL ORDER BY row"
        )
        self._connection.execute("DELETE FROM images")
        columns = _RECORD.replace("row, ", "", 1)
        self._connection.execute(
            f"INSERT INTO images SELECT rowid - 1, {columns}, dead FROM temp.kept ORDER BY rowid"
        )
        header = self.header
        self._set(generation=header.generation + 1, rows=header.rows - header.deaths, deaths=0)

    def check(self) -> None:
        """Verify the database itself.

        Raises:
            StoreError: SQLite's own check fails, or rows and deaths are not those that the header counts.
        """
        ((found,),) = self._query("PRAGMA integrity_check(1)")
        if found != "ok":
            raise damaged(self._folder, str(found))
        header = self.header
        counts = self._query("SELECT count(*), min(row), max(row), count(dead), max(dead) FROM images")[0]
        deaths = header.deaths or None
        expected = (header.rows, 0, header.rows - 1, header.deaths, deaths) if header.rows else (0,)
        if counts[: len(expected)] != expected:
            raise damaged(self._folder, f"its rows are not the {header.rows} that it should have")

    def _set(self, **changes: int) -> None:
        self.header = Header(**{**self.header._asdict(), **changes})
        changes["checksum"] = self.header.checksum()
        assignments = ", ".join(f"{name} = ?" for name in changes)
        self._connection.execute(f"UPDATE header SET {assignments}", tuple(changes.values()))

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _records(self, condition: str, *values: object) -> list[Record]:
        rows = self._connection.execute(f"SELECT {_RECORD} FROM images WHERE {condition}", values)
        with self._named_damage():
            return [self._record(row) for row in rows]

    def _record(self, values: tuple[Any, ...]) -> Record:
        row, name, label, height, width, size, mtime_ns, checksum = values
        self._check_row(row)
        numbers = int(height), int(width), int(size), int(mtime_ns)
        entry = Entry(_text(name), None if label is None else _text(label), *numbers)
        return Record(row, entry, int(checksum))

    def _check_row(self, row: int) -> int:
        if not 0 <= row < self.header.rows:
            raise ValueError(f"there is a row {row} of {self.header.rows}")
        return row

    @contextmanager
    def _named_damage(self) -> Iterator[None]:
        """Values of other types than we write come from damage or from another hand."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise damaged(self._folder, f"{type(error).__name__}: {error}") from error


@contextmanager
def reading(folder: Path) -> Iterator[Database]:
    """One state of the index, whatever others write meanwhile. Keep it short, since commits wait for it.

    Raises:
        StoreError: there is no index, it is damaged or in use, or another version of simmap made it.
    """
    with _connection(folder, "read") as connection:
        connection.execute("BEGIN")
        yield Database(connection, folder)


@contextmanager
def writing(folder: Path) -> Iterator[Database]:
    """A transaction that keeps other writers out; on the disk on a clean exit, undone on an error.

    Raises:
        StoreError: as for ``reading``, or the index cannot be written.
    """
    with _connection(folder, "written") as connection:
        connection.execute("PRAGMA synchronous = EXTRA")
        # Pages that leave the cache before the commit would keep readers out from then on.
        connection.execute("PRAGMA cache_spill = OFF")
        connection.execute("BEGIN IMMEDIATE")
        yield Database(connection, folder)
        connection.execute("COMMIT")


def create(folder: Path, header: Header) -> None:
    """Make the database of an empty index, if there is none.

    Raises:
        StoreError: it cannot be written.
    """
    with _connection(folder, "written", new=True) as connection:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        if _is_blank(connection):
            for table in _TABLES:
                connection.execute(table)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            values = [_bytes(value) if isinstance(value, str) else value for value in header]
            connection.execute(
                "INSERT INTO header VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, header.checksum())
            )
            connection.execute("COMMIT")


def damaged(folder: Path, why: str) -> StoreError:
    """The error of a database that holds what it cannot hold."""
    return StoreError(f"{folder / DATABASE}: is damaged ({printable(why)}); build the index anew")


@contextmanager
def _connection(folder: Path, verb: str, *, new: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that is closed on exit, which undoes what was not committed."""
    path = folder / DATABASE
    if not new or path.exists():
        _check_file(folder)
    mode = "rwc" if new else "rw"  # "rw" opens for reading alone where writing is forbidden
    try:
        with closing(
            sqlite3.connect(
                f"{Path(absolute(path)).as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None
            )
        ) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except UnicodeDecodeError as error:  # in the text of SQLite's own error, which quotes what is damaged
        raise damaged(folder, str(error)) from error
    except sqlite3.Error as error:
        raise _named(folder, verb, error) from error


def _named(folder: Path, verb: str, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"{folder}: another program has kept it locked for {WAIT:.0f} s; try again when it has finished"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"{folder}: cannot be {verb}: {os.strerror(errno.ENOSPC)}")
    if code in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
    ):
        return StoreError(f"{folder}: cannot be {verb}: {error}")
    return damaged(folder, str(error))


def _check_file(folder: Path) -> None:
    """Refuse what is no regular file before SQLite opens it: a pipe would block."""
    path = folder / DATABASE
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_index(folder) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path}: is no regular file; build the index anew in a new folder")


def no_index(folder: Path) -> StoreError:
    """The error of a folder that is no index, or one of the layout before SQLite."""
    build = f"simmap index build IMAGES -o {folder}"
    if (folder / "index.json").is_file():
        return StoreError(
            f"{folder}: has the layout of an earlier simmap (index.json); remove the folder and build it "
            f"anew with: {build}"
        )
    return StoreError(f"{folder}: is no index; make one with: {build}")


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever committed: a new file, or that of a killed ``create``."""
    ((count,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    ((application,),) = connection.execute("PRAGMA application_id")
    return not count and not application


def _check_schema(connection: sqlite3.Connection, folder: Path) -> None:
    if _is_blank(connection):
        raise no_index(folder)
    ((application,),) = connection.execute("PRAGMA application_id")
    if application != APPLICATION_ID:
        raise StoreError(
            f"{folder / DATABASE}: is a database of another program; build the index in a new folder"
        )
    ((schema,),) = connection.execute("PRAGMA user_version")
    if schema != SCHEMA:
        mend = "upgrade simmap" if schema > SCHEMA else "build it anew"
        raise StoreError(f"{folder}: has schema {schema}, this simmap reads schema {SCHEMA}; {mend}")
    # Views, triggers and virtual tables of another hand are never run.
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'")
    if sorted(map(str, (sql for (sql,) in tables))) != sorted(_TABLES):
        raise damaged(folder, "it has other tables")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
