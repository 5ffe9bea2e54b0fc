"""An index in a collection of Milvus: ``milvus://user:password@host:port/collection``.

Searched exactly with Milvus's FLAT index, which is made here, or through another index that somebody put in
its place, with the vectors that it finds scored again. What made the vectors stands in the collection's
properties. All reads have strong consistency: with less, Milvus gives images for a while that were removed.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import StoreError, printable
from ..types import Array
from .address import milvus_address, shown
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
from .scan import QUERIES
from .store import About, Entry
from .vectors import checksum

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MOST_RESULTS = 16_384  # of one search or one query of Milvus
MOST_BYTES = 65_535  # of a text in Milvus
PAGE_BYTES = 1 << 24  # of vectors that are fetched or written at once
PAGE = 8192  # entries that are fetched at once
TIMEOUT = 120.0  # seconds for one request
SETTLE = 600.0  # seconds for an index to be built

EXACT = "FLAT IP"  # index and metric that lose nothing
NOT_LOADED = 101  # Milvus's code of a collection that is not in memory
# Its codes of a server that cannot be reached, starts or stops; of a collection that is being loaded, of a
# channel or a node that is not there yet.
ABSENT = frozenset({2, 3, NOT_LOADED, 103, 104, 500, 501, 502, 503, 504, 901, 902, 903})

_T = TypeVar("_T")
_PROPERTY = "simmap"
_ENTRY = ["id", "label", "height", "width", "bytes", "mtime_ns"]
_ROW = [*_ENTRY, "checksum", "vector"]
_NO_LABEL = "\ufffd"  # ``encoded`` gives it for no text


class MilvusIndex(ServerIndex):
    """An index in a collection."""

    def __init__(self, url: str) -> None:
        """Open the index in the collection of ``url``.

        Raises:
            StoreError: a package is missing, the URL is wrong, or the server cannot be reached or lacks it.
        """
        self._open(url)
        if not self._call("has_collection"):
            raise no_index(self.name)
        self._read_metadata()

    def _open(self, url: str) -> None:
        try:
            import pymilvus
        except ImportError as error:
            raise needs(shown(url), "milvus", error) from error
        # It prints errors that it also raises.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
        self._pymilvus = pymilvus
        self._name, self._server, self._token, self._collection = milvus_address(url)
        self._client: MilvusClient | None = None
        self._lock = threading.Lock()
        self._was_open = False

    def _read_metadata(self) -> None:
        described = self._call("describe_collection")
        self._metadata = metadata_of(self.name, described["properties"].get(_PROPERTY))
        index = self._describe_index()
        self._index = None if index is None or index.startswith(EXACT) else index
        self._call("load_collection")

    @classmethod
    def make(cls, url: str, about: About) -> "MilvusIndex":
        """The index in the collection of ``url``; an empty one where there is none.

        Raises:
            StoreError: as for opening it; it is of another model or root; or it cannot be made.
        """
        new = cls.__new__(cls)
        new._open(url)
        if not new._call("has_collection"):
            new._create(about)
        if new._describe_index() is None:  # new, or left by one that was killed here
            parameters = new._pymilvus.MilvusClient.prepare_index_params()
            parameters.add_index("vector", index_type="FLAT", metric_type="IP")
            new._call("create_index", index_params=parameters)
        new._read_metadata()
        new.check_about(about)
        return new

    def _create(self, about: About) -> None:
        kinds = self._pymilvus.DataType
        schema = self._pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=MOST_BYTES)
        schema.add_field("label", kinds.VARCHAR, max_length=MOST_BYTES)
        for name in ("height", "width", "bytes", "checksum"):
            schema.add_field(name, kinds.INT64)
        schema.add_field("mtime_ns", kinds.VARCHAR, max_length=64)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=about.dimension)
        try:
            self._call(
                "create_collection",
                schema=schema,
                consistency_level="Strong",
                properties={_PROPERTY: Metadata(about).text()},
            )
        except StoreError:
            # Another that makes the same index at the same time may have been faster.
            if not self._call("has_collection"):
                raise

    def settle(self) -> None:
        """Wait until the approximate index has taken up all rows and is the one that is searched.

        Until then Milvus searches a coarse index of its own in their place, also when it calls the real one
        finished: it is loaded some 20 s later, and then its segments are listed as sealed.

        Raises:
            StoreError: it takes longer than ``SETTLE`` seconds.
        """
        if self.approximate is None:
            return
        self._call("flush")
        until = time.monotonic() + SETTLE
        while True:
            state = self._index_state() or {"pending_index_rows": 0}
            segments = self._call("list_loaded_segments")
            sealed = sum(one.num_rows for one in segments if "ealed" in str(one.state))
            if state["pending_index_rows"] == 0 and sealed >= len(self):
                return
            if time.monotonic() > until:
                raise StoreError(
                    f"{printable(self.name)}: Milvus has not built its index in {SETTLE:.0f} s; run the same "
                    "command again later"
                )
            time.sleep(0.5)

    def __len__(self) -> int:
        """How many images there are."""
        (count,) = self._query("", ["count(*)"])
        return int(count["count(*)"])

    def size(self) -> int:
        """Bytes of the vectors; Milvus does not say what it takes itself."""
        return 4 * self.dimension * len(self)

    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images, or replace those of the same id."""
        vectors = self._checked_vectors(entries, vectors)
        last = {entry.id: at for at, entry in enumerate(entries)}
        rows = [
            {
                "id": encoded(entries[at].id),
                "label": _label(entries[at].label),
                "height": entries[at].height,
                "width": entries[at].width,
                "bytes": entries[at].bytes,
                "mtime_ns": str(entries[at].mtime_ns),
                "checksum": checksum(entries[at], vectors[at]),
                "vector": vectors[at],
            }
            for at in last.values()
        ]
        for page in self._pages(rows):
            self._call("upsert", data=page)

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were."""
        removed = 0
        for page in self._pages(sorted(set(map(encoded, ids)))):
            # Milvus counts those that it was asked for.
            there = [row["id"] for row in self._query(_one_of("id", page), ["id"])]
            if there:
                self._call("delete", filter=_one_of("id", there))
            removed += len(there)
        return removed

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query; see ``VectorStore.search``."""
        queries = self._checked_queries(queries, k)
        hidden = f"not ({_one_of('id', list(map(encoded, exclude)))})" if exclude else ""
        exact = self.approximate is None
        count = k + EXTRA if exact else 10 * k + EXTRA
        step = max(1, min(QUERIES, 2 * MOST_RESULTS // count))
        results = []
        for start in range(0, len(queries), step):
            page = queries[start : start + step]
            units = [unit_query(query) for query in page]
            answers = self._nearest(units, count, hidden)
            for query, unit, answer in zip(page, units, answers, strict=True):

                def ask(count: int, unit: Array = unit) -> Answer:
                    return self._nearest([unit], count, hidden)[0]

                results.append(rank(self.name, query, k, answer, ask, exact=exact))
        return results

    def _nearest(self, units: Sequence[Array], count: int, hidden: str) -> list[Answer]:
        if count > MOST_RESULTS and len(self) > MOST_RESULTS:
            raise StoreError(
                f"{printable(self.name)}: Milvus gives at most {MOST_RESULTS} images at once; ask for fewer, "
                "or copy the index with: simmap index copy"
            )
        limit = min(count, MOST_RESULTS)
        wide = max(100, limit)  # of the lists that approximate indexes walk along
        found = self._call(
            "search",
            data=units,
            limit=limit,
            filter=hidden,
            search_params={"params": {"ef": wide, "search_list": wide, "reorder_k": wide, "nprobe": 64}},
            output_fields=["id"],
            consistency_level="Strong",
        )
        names = {hit["id"] for hits in found for hit in hits}
        rows = self._rows_of(list(names))
        return [
            Answer(
                [rows[name] for name in dict.fromkeys(hit["id"] for hit in hits) if name in rows],
                float(hits[-1]["distance"]) if hits else 0.0,
                complete=len(hits) < limit or limit < count,
            )
            for hits in found
        ]

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The images of ``ids`` that are there, each once, whether they are sound or not."""
        return list(self._rows_of(list(map(encoded, ids))).values())

    def _rows_of(self, names: Sequence[str]) -> dict[str, Row]:
        found = {}
        for page in self._pages(names):
            for row in self._query(_one_of("id", page), _ROW):
                vector = np.array(row["vector"], np.float32)
                found[row["id"]] = Row(_entry(row), vector, int(row["checksum"]))
        return found

    def entries(self, label: str | None = None) -> list[Entry]:
        """All images, or those of one label, by id."""
        where = "" if label is None else f"label == {_quoted(_label(label))}"
        return [_entry(row) for row in self._walk(where, _ENTRY)]

    def labels(self) -> dict[str | None, int]:
        """How many images each label has, by label; None stands first, for images without one."""
        counts: dict[str | None, int] = {}
        for row in self._walk("", ["id", "label"]):
            label = _unlabel(row["label"])
            counts[label] = counts.get(label, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (item[0] is not None, item[0] or "")))

    def ids(self, start: str = "", stop: str | None = None) -> list[str]:
        """Ids from ``start`` to before ``stop``, sorted."""
        where = [f"id >= {_quoted(encoded(start))}"] if start else []
        if stop is not None:
            where.append(f"id < {_quoted(encoded(stop))}")
        return sorted(decoded(row["id"]) for row in self._walk(" and ".join(where), ["id"]))

    def _walk(self, where: str, fields: list[str]) -> Iterator[dict[str, Any]]:
        """All rows, in the order of their ids."""
        last: str | None = None
        while True:
            after: list[str] = [] if last is None else [f"id > {_quoted(last)}"]
            # What pymilvus's own iterator asks for: the rows of the smallest ids first.
            page = self._query(
                " and ".join([*after, *([f"({where})"] if where else [])]) or 'id >= ""',
                fields,
                limit=PAGE,
                iterator="True",
                reduce_stop_for_best="True",
            )
            rows = {row["id"]: row for row in page}
            for name in sorted(rows):
                yield rows[name]
            # A page may be short though more follow: it ends with the last id of which Milvus is sure.
            if not rows:
                return
            last = max(rows)

    def _query(self, where: str, fields: list[str], **more: Any) -> list[dict[str, Any]]:
        found = self._call("query", filter=where, output_fields=fields, consistency_level="Strong", **more)
        return list(found)

    def _pages(self, rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
        """Of so many vectors as one message may hold."""
        step = max(1, min(PAGE, PAGE_BYTES // (4 * self.dimension)))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _write_metadata(self) -> None:
        self._call("alter_collection_properties", properties={_PROPERTY: self._metadata.text()})

    def _index_state(self) -> dict[str, Any] | None:
        names = self._call("list_indexes", field_name="vector")
        return dict(self._call("describe_index", index_name=names[0])) if names else None

    def _describe_index(self) -> str | None:
        state = self._index_state()
        if state is None:
            return None
        known = ("total_rows", "indexed_rows", "pending_index_rows", "state", "field_name", "index_name")
        rest = {key: value for key, value in sorted(state.items()) if key not in known}
        kind, metric = rest.pop("index_type"), rest.pop("metric_type")
        return f"{kind} {metric}" + (f" {json.dumps(rest)}" if rest else "")

    def _call(self, what: str, **arguments: Any) -> Any:
        """A method of the client on this collection."""

        def call() -> Any:
            client = self._connected()
            method: Callable[..., Any] = getattr(client, what)
            try:
                return method(self._collection, timeout=TIMEOUT, retry_times=0, **arguments)
            except self._pymilvus.MilvusException as error:
                if error.code != NOT_LOADED:
                    raise
            # A server that was killed may have forgotten that it had it in memory.
            client.load_collection(self._collection, timeout=TIMEOUT)
            return method(self._collection, timeout=TIMEOUT, retry_times=0, **arguments)

        try:
            return retried(call, self._is_lost)
        except (self._pymilvus.MilvusException, OSError, ValueError) as error:
            raise self._named(error) from error

    def _connected(self) -> "MilvusClient":
        with self._lock:
            if self._client is None:
                self._client = self._pymilvus.MilvusClient(self._server, token=self._token, timeout=10)
                self._was_open = True
            return self._client

    def _is_lost(self, error: Exception) -> bool:
        """A server that never answered is not waited for; one that was restarted is."""
        return self._was_open and self._is_absent(error)

    def _is_absent(self, error: Exception) -> bool:
        # A code that is no number is gRPC's own.
        code = getattr(error, "code", None)
        return isinstance(error, self._pymilvus.MilvusException) and (
            code in ABSENT or not isinstance(code, int)
        )

    def _named(self, error: Exception) -> StoreError:
        why = " ".join(str(getattr(error, "message", error)).split())
        name = printable(self.name)
        if self._is_absent(error) or not self._was_open:
            return StoreError(
                f"{name}: the server cannot be reached or has gone ({why}); see whether it runs"
            )
        return StoreError(f"{name}: the server refused ({why})")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _one_of(field: str, values: Sequence[str]) -> str:
    return f"{field} in [{', '.join(map(_quoted, values))}]"


def _label(label: str | None) -> str:
    return _NO_LABEL if label is None else encoded(label)


def _unlabel(text: str) -> str | None:
    return None if text == _NO_LABEL else decoded(text)


def _entry(row: dict[str, Any]) -> Entry:
    name, label, height, width, size, mtime_ns = (row[field] for field in _ENTRY)
    return Entry(decoded(name), _unlabel(label), height, width, size, _number(mtime_ns))


def _number(text: str) -> int:
    """-1 for what is none: the checksum then tells that it was changed."""
    try:
        return int(text)
    except ValueError:
        return -1
