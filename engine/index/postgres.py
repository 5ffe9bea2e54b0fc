"""An index in a table of PostgreSQL with pgvector: ``postgresql://user:password@host:port/db?table=photos``.

Searched exactly by a scan of the table, or through an HNSW or IVFFlat index that somebody made on it, with
the vectors that it finds scored again. What made the vectors stands in the table's comment. Each thread has a
connection of its own; each write is one transaction.
"""

import os
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import StoreError, printable
from ..types import Array
from .address import postgres_address, shown
from .remote import (
    EXTRA,
    Answer,
    Metadata,
    Row,
    ServerIndex,
    decoded,
    encoded,
    metadata_of,
    needs,
    no_index,
    rank,
    retried,
    unit_query,
)
from .store import About, Entry
from .vectors import checksum

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

INLINE = 1536  # dimensions of vectors that lie in the table's own pages (8 KiB), which scans twice as fast
MOST_DIMENSIONS = 16_000  # of pgvector's ``vector``
MOST_CANDIDATES = 1000  # of pgvector's ``hnsw.ef_search``

_T = TypeVar("_T")
_COLUMNS = "id, label, height, width, bytes, mtime_ns, checksum, vector"


class PostgresIndex(ServerIndex):
    """An index in a table."""

    def __init__(self, url: str) -> None:
        """Open the index in the table of ``url``.

        Raises:
            StoreError: a package is missing, the URL is wrong, or the server cannot be reached or lacks it.
        """
        self._open(url)
        text = self._fetch("SELECT obj_description(to_regclass(%s), 'pg_class')", [self._table])[0][0]
        if text is None and self._fetch("SELECT to_regclass(%s)", [self._table])[0][0] is None:
            raise no_index(self.name)
        self._metadata = metadata_of(self.name, text)
        self._index = self._find_index()

    def _open(self, url: str) -> None:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
            from psycopg import sql
        except ImportError as error:
            raise needs(shown(url), "postgres", error) from error
        self._psycopg, self._register, self._sql = psycopg, register_vector, sql
        self._name, self._server, table = postgres_address(url)
        # Quoted, as ``to_regclass`` reads it.
        self._table = '"' + table.replace('"', '""') + '"'
        self._identifier = sql.Identifier(table)
        self._local = threading.local()
        self._was_open = False

    @classmethod
    def make(cls, url: str, about: About) -> "PostgresIndex":
        """The index in the table of ``url``; an empty one where there is none.

        Raises:
            StoreError: as for opening it; it is of another model or root; or it cannot be made.
        """
        new = cls.__new__(cls)
        new._open(url)
        new._create(about)
        opened = cls(url)
        opened.check_about(about)
        return opened

    def _create(self, about: About) -> None:
        if about.dimension > MOST_DIMENSIONS:
            raise StoreError(
                f"{printable(self.name)}: pgvector stores vectors of at most {MOST_DIMENSIONS} dimensions, "
                f"these have {about.dimension}; use another index"
            )
        storage = "PLAIN" if about.dimension <= INLINE else "EXTERNAL"

        def create(connection: "Connection[Any]") -> None:
            with connection.transaction():
                # Of several that make the same index at the same time, one does.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('simmap'))")
                if connection.execute("SELECT to_regclass(%s)", [self._table]).fetchone() != (None,):
                    return
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                connection.execute(
                    self._sql.SQL(
                        'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, label text COLLATE "C",'
                        " height integer NOT NULL, width integer NOT NULL, bytes bigint NOT NULL,"
                        " mtime_ns numeric NOT NULL, checksum bigint NOT NULL, vector vector({d}) NOT NULL)"
                    ).format(table=self._identifier, d=self._sql.Literal(about.dimension))
                )
                connection.execute(
                    self._statement(f"ALTER TABLE {{table}} ALTER COLUMN vector SET STORAGE {storage}")
                )
                connection.execute(self._statement("CREATE INDEX ON {table} (label)"))
                self._comment(connection, Metadata(about))

        self._run(create)

    def __len__(self) -> int:
        """How many images there are."""
        return int(self._fetch("SELECT count(*) FROM {table}")[0][0])

    def size(self) -> int:
        """Bytes of the table and its indexes."""
        return int(self._fetch("SELECT pg_total_relation_size(to_regclass(%s))", [self._table])[0][0])

    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images, or replace those of the same id, in one transaction."""
        vectors = self._checked_vectors(entries, vectors)
        last = {entry.id: at for at, entry in enumerate(entries)}
        rows = [
            (
                encoded(entry.id),
                None if entry.label is None else encoded(entry.label),
                *entry[2:],
                checksum(entry, vectors[at]),
                vectors[at],
            )
            # In the order of their ids, so that two writers never wait for each other.
            for entry, at in sorted((entries[at], at) for at in last.values())
        ]
        places = ", ".join(["%s"] * 8)
        changes = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", ")[1:])
        statement = self._statement(
            f"INSERT INTO {{table}} ({_COLUMNS}) VALUES ({places}) ON CONFLICT (id) DO UPDATE SET {changes}"
        )

        def write(connection: "Connection[Any]") -> None:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(statement, rows)

        self._run(write)

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were."""
        names = sorted(map(encoded, ids))
        statement = self._statement("DELETE FROM {table} WHERE id = ANY(%s)")
        removed: int = self._run(lambda connection: connection.execute(statement, [names]).rowcount)
        return removed

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query; see ``VectorStore.search``."""
        queries = self._checked_queries(queries, k)
        hidden = list(map(encoded, exclude))
        exact = self._index is None
        results = []
        for query in queries:
            unit = unit_query(query)

            def ask(count: int, unit: Array = unit) -> Answer:
                rows = self._nearest(unit, count, hidden)
                least = -float(rows[-1][-1]) if rows else 0.0
                return Answer([_row(row[:-1]) for row in rows], least, complete=len(rows) < count)

            first = ask(k + EXTRA if exact else 10 * k + EXTRA)
            results.append(rank(self.name, query, k, first, ask, exact=exact))
        return results

    def _nearest(self, unit: Array, count: int, hidden: list[str]) -> list[tuple[Any, ...]]:
        where = "FROM {table} WHERE id <> ALL(%(hidden)s)"
        values = {"query": unit, "hidden": hidden, "count": count}
        if self._index is None:
            # An ORDER BY that is no bare operator keeps indexes of others out.
            return self._fetch(
                f"SELECT {_COLUMNS}, (vector <#> %(query)s) + 0 AS distance {where} "
                "ORDER BY distance, id LIMIT %(count)s",
                values,
            )
        cast = f"::halfvec({self.dimension})" if "halfvec" in self._index else ""
        operator = "<=>" if "_cosine_ops" in self._index else "<->" if "_l2_ops" in self._index else "<#>"
        statement = self._statement(
            f"SELECT {_COLUMNS}, 0 AS distance {where} "
            f"ORDER BY vector{cast} {operator} %(query)s{cast or '::vector'} LIMIT %(count)s"
        )

        def search(connection: "Connection[Any]") -> list[tuple[Any, ...]]:
            with connection.transaction():
                for setting, value in (
                    ("enable_seqscan", "off"),
                    ("hnsw.ef_search", str(min(MOST_CANDIDATES, max(100, count)))),
                    ("hnsw.iterative_scan", "strict_order"),
                    ("ivfflat.probes", "64"),
                ):
                    connection.execute("SELECT set_config(%s, %s, true)", [setting, value])
                found: list[tuple[Any, ...]] = connection.execute(statement, values).fetchall()
                return found

        return self._run(search)

    def entries(self, label: str | None = None) -> list[Entry]:
        """All images, or those of one label, by id."""
        columns = "id, label, height, width, bytes, mtime_ns"
        if label is None:
            rows = self._fetch(f"SELECT {columns} FROM {{table}} ORDER BY id")
        else:
            rows = self._fetch(
                f"SELECT {columns} FROM {{table}} WHERE label = %s ORDER BY id", [encoded(label)]
            )
        return [_entry(row) for row in rows]

    def labels(self) -> dict[str | None, int]:
        """How many images each label has, by label; None stands first, for images without one."""
        counts = self._fetch("SELECT label, count(*) FROM {table} GROUP BY label ORDER BY label NULLS FIRST")
        return {None if label is None else decoded(label): int(count) for label, count in counts}

    def ids(self, start: str = "", stop: str | None = None) -> list[str]:
        """Ids from ``start`` to before ``stop``, sorted."""
        if stop is None:
            rows = self._fetch("SELECT id FROM {table} WHERE id >= %s", [encoded(start)])
        else:
            rows = self._fetch(
                "SELECT id FROM {table} WHERE id >= %s AND id < %s", [encoded(start), encoded(stop)]
            )
        return sorted(decoded(name) for (name,) in rows)

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The images of ``ids`` that are there, each once, whether they are sound or not."""
        names = list(map(encoded, ids))
        return [
            _row(row) for row in self._fetch(f"SELECT {_COLUMNS} FROM {{table}} WHERE id = ANY(%s)", [names])
        ]

    def _find_index(self) -> str | None:
        found = self._fetch(
            "SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = to_regclass(%s) AND i.indisvalid"
            " AND a.amname IN ('hnsw', 'ivfflat') ORDER BY c.relname LIMIT 1",
            [self._table],
        )
        return found[0][0] if found else None

    def _write_metadata(self) -> None:
        self._run(lambda connection: self._comment(connection, self._metadata))

    def _comment(self, connection: "Connection[Any]", metadata: Metadata) -> None:
        statement = self._sql.SQL("COMMENT ON TABLE {table} IS {text}")
        connection.execute(statement.format(table=self._identifier, text=self._sql.Literal(metadata.text())))

    def _statement(self, text: str) -> "Composed":
        return self._sql.SQL(text).format(table=self._identifier)

    def _fetch(self, text: str, values: Any = ()) -> list[tuple[Any, ...]]:
        statement = self._statement(text)
        return self._run(lambda connection: connection.execute(statement, values).fetchall())

    def _run(self, work: "Callable[[Connection[Any]], _T]") -> _T:
        def on_a_connection() -> _T:
            try:
                return work(self._connection())
            except BaseException:
                # What was under way on it, such as a COPY or a transaction, ends with it.
                self._forget()
                raise

        try:
            return retried(on_a_connection, self._is_lost)
        except self._psycopg.Error as error:
            raise self._named(error) from error

    def _connection(self) -> "Connection[Any]":
        connection: Connection[Any] | None = getattr(self._local, "connection", None)
        # A connection that a fork inherited is its parent's.
        if connection is None or connection.closed or self._local.process != os.getpid():
            connection = self._psycopg.connect(
                self._server, autocommit=True, connect_timeout=10, application_name="simmap"
            )
            self._local.connection, self._local.process = connection, os.getpid()
            if connection.execute("SELECT to_regtype('vector')").fetchone() != (None,):
                self._register(connection)
            self._was_open = True
        return connection

    def _forget(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.process == os.getpid():
            connection.close()
        self._local.connection = None

    def _is_lost(self, error: Exception) -> bool:
        """A server that never answered is not waited for; one that was restarted is."""
        return self._was_open and self._is_absent(error)

    def _is_absent(self, error: Exception) -> bool:
        if not isinstance(error, self._psycopg.OperationalError | self._psycopg.InterfaceError):
            return False
        # Class 08: connection exceptions; 57P0x: the server is shutting down or starting.
        return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))

    def _named(self, error: "Exception") -> StoreError:
        why = " ".join(str(error).split("\n")[0].split())
        name = printable(self.name)
        if self._is_absent(error):
            return StoreError(
                f"{name}: the server cannot be reached or has gone ({why}); see whether it runs"
            )
        if isinstance(error, self._psycopg.errors.UndefinedTable):
            return no_index(self.name)
        if isinstance(error, self._psycopg.errors.FeatureNotSupported | self._psycopg.errors.UndefinedFile):
            return StoreError(f"{name}: {why}; install pgvector on the server")
        return StoreError(f"{name}: the server refused ({why})")


def _entry(row: Sequence[Any]) -> Entry:
    name, label, height, width, size, mtime_ns = row
    return Entry(decoded(name), None if label is None else decoded(label), height, width, size, int(mtime_ns))


def _row(row: Sequence[Any]) -> Row:
    return Row(_entry(row[:6]), np.asarray(row[7].to_numpy(), np.float32), int(row[6]))
