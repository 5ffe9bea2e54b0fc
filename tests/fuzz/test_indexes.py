"""Indexes: what was written comes back, or one line names the damage."""

import random
import shutil
import sqlite3
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from fuzzing import fuzzed, refusing, trial
from index_common import ENGINE, D, entry, files, header, units
from mutations import VALUES, injured

from simmap.engine import search_embeddings
from simmap.engine.errors import StoreError
from simmap.engine.index.check import check_index
from simmap.engine.index.embedded import Index

COUNT = 40
COLUMNS = {
    "images": ("row", "id", "label", "height", "width", "bytes", "mtime_ns", "checksum", "dead"),
    "header": (
        "token",
        "model",
        "fingerprint",
        "dimension",
        "root",
        "generation",
        "rows",
        "deaths",
        "checksum",
    ),
}
STATEMENTS = (
    "DROP TABLE images", "DROP INDEX live", "DROP INDEX labels", "DELETE FROM header", "DELETE FROM images",
    "DELETE FROM images WHERE row = 3", "INSERT INTO header SELECT * FROM header", "PRAGMA user_version = 3",
    "PRAGMA application_id = 0", "CREATE VIEW v AS SELECT 1", "ALTER TABLE images ADD COLUMN x",
    "CREATE TRIGGER t AFTER UPDATE ON header BEGIN DELETE FROM images; END", "PRAGMA journal_mode = WAL",
    "UPDATE images SET row = row + 100", "UPDATE images SET dead = row + 1", "VACUUM",
    "PRAGMA encoding = 'UTF-16'", "UPDATE header SET rows = 9223372036854775807",
    "UPDATE images SET row = 9223372036854775807 WHERE row = 5",
)  # fmt: skip


@cache
def seed() -> Path:
    """An index with labels, replaced and removed images."""
    path = Path(mkdtemp()) / "ix"
    index = Index.create(path, ENGINE, path.parent)
    names = [f"é {number}.png" for number in range(COUNT)]
    index.upsert(
        [entry(name, "ab"[n % 2] if n % 5 else None) for n, name in enumerate(names)], units(0, COUNT)
    )
    index.upsert([entry(name) for name in names[:5]], units(1, 5))
    index.delete(names[7:10])
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "ix"


def use(path: Path) -> None:
    """Read, search, verify and change an index."""
    index = Index(path)
    queries = units(2, 2)
    with refusing():
        index.check_model(ENGINE)
        found = search_embeddings(index, queries, 5)
        assert all(np.isfinite(hit.score) and abs(hit.score) < 1.01 for one in found for hit in one.hits)
    for action in (
        lambda: search_embeddings(index, queries, 2, per_class=True),
        lambda: check_index(index),
        lambda: [len(index), index.entries("a"), index.labels(), index.ids_below(path.parent)],
        lambda: index.get([one.id for one in index.entries()]),
        lambda: index.delete(["é 1.png", "no"]),
        lambda: index.upsert([entry("é 2.png"), entry("new")], units(3, 2)),
        lambda: search_embeddings(index, queries, COUNT),
    ):
        with refusing():
            action()


@fuzzed(tries=120)
def test_spoilt_files(draw: random.Random, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(seed(), path)
    one = path / draw.choice(sorted(files(path)))
    data = one.read_bytes()
    for _ in range(draw.choice((1, 1, 4))):
        data = injured(draw, data)
    one.write_bytes(data)
    rows = 4 * D * header(seed()).rows
    with trial("indexes", **files(path)):
        if one.suffix == ".f32" and data[:rows] != (seed() / one.name).read_bytes()[:rows]:
            changed = np.frombuffer(data[:rows].ljust(rows, b"\0"), "<u4").reshape(-1, D)
            before = np.frombuffer((seed() / one.name).read_bytes()[:rows], "<u4").reshape(-1, D)
            if len(data) < rows or (changed != before).any(axis=1)[_live_rows(path)].any():
                with pytest.raises(StoreError):
                    check_index(Index(path))
        use(path)


def _live_rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path / "index.sqlite")) as connection:
        return [row for (row,) in connection.execute("SELECT row FROM images WHERE dead IS NULL")]


@fuzzed(tries=200)
def test_databases_that_hold_something_else(draw: random.Random, path: Path) -> None:
    """Valid for SQLite, not for us."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(seed(), path)
    signed = draw.randrange(2)
    with closing(sqlite3.connect(path / "index.sqlite", isolation_level=None)) as connection:
        for _ in range(draw.randrange(1, 3)):
            table = draw.choice(sorted(COLUMNS))
            column, value = draw.choice(COLUMNS[table]), draw.choice(VALUES)
            value = value if isinstance(value, int | float | str | None) else bytes([200, 255])
            rows = "" if draw.randrange(3) == 0 or table == "header" else f" WHERE row = {draw.randrange(45)}"
            with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                if draw.randrange(3) == 0:
                    connection.execute(draw.choice(STATEMENTS))
                else:
                    connection.execute(f"UPDATE {table} SET {column} = ?{rows}", (value,))
        if signed:
            with suppress(sqlite3.Error, TypeError, ValueError):
                _sign(connection)
    with trial("indexes", **files(path)):
        use(path)


def _sign(connection: sqlite3.Connection) -> None:
    """Give the header the checksum of what it says."""
    from simmap.engine.index.database import Header

    ((token, *texts, _),) = connection.execute("SELECT * FROM header").fetchall()
    texts = [one.decode() if isinstance(one, bytes) else one for one in texts]
    connection.execute("UPDATE header SET checksum = ?", (Header(token, *texts).checksum(),))
