"""What a search costs and finds in each kind of index: ``python tests/benchmarks/stores.py [--full]``.

100,000 vectors like those of real photos: each is a mixture of the embeddings of three crops of the photos
that are given, each feature times noise. The queries are other crops, whole or by a rectangle of cells. Real
servers are started on this machine and stopped. Each is filled by a copy of the embedded index, and with
``--full`` copied back; after each copy all queries must have the same answers, scores too. The rows are an
engine's time over that of the embedded index; the notes say how fast vectors were written and compared, and
recall@10 of whole images and regions. With ``--full`` the approximate indexes of these engines too, which
take minutes to build.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from alike import Floats, embeddings, like
from common import ROOT, Row, Settings, Watch, compare, main, skipped
from simmap.engine import Engine, about_of, copy_index, open_index
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry, VectorStore

sys.path.append(str(ROOT / "tests"))
from servers import PACKAGES, Milvus, Postgres, milvus_server, postgres_server

COUNT, BATCH, K = 100_000, 2000, 10
Find = Callable[[Floats], list[list[int]]]


def rows(options: Settings) -> Iterator[Row]:
    """One query, and a hundred at once, of each engine."""
    rng = np.random.default_rng(0)
    engine = Engine(options.model, device="cpu")
    crops, whole, region = embeddings(engine, options, rng)
    vectors = like(crops, COUNT, rng)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        about = about_of(engine, folder)
        own = Index.make(Path(folder) / "index", about)
        fill(own, vectors)
        base = finder(own)
        queries = np.concatenate([whole, region])
        answers = own.search(queries, K)
        truth = [base(whole), base(region)]

        def row(name: str, find: Find, note: str) -> Iterator[Row]:
            found = [np.mean([len(set(a) & set(b)) / K for a, b in zip(one, other, strict=True)])
                     for one, other in zip(truth, (find(whole), find(region)), strict=True)]  # fmt: skip
            recall = f"recall {found[0]:.3f} whole, {found[1]:.3f} region"
            note = "; ".join(filter(None, [recall, note]))
            for count in (1, len(region)):
                yield compare(
                    f"{name}, {count} at once / embedded",
                    partial(find, region[:count]),
                    partial(base, region[:count]),
                    "",
                    options,
                    note=note,
                    turns=min(options.turns, 5),
                    wall=True,
                )

        def copied(source: str, target: str, names: str) -> Row:
            watch = Watch()
            seconds, rates = copy(source, target)
            told = watch.told()
            if open_index(target).search(queries, K) != answers:
                raise RuntimeError(f"copy, {names}: the answers differ")
            ratio = seconds / least
            note = "; ".join(filter(None, [rates, f"{len(queries)} answers equal before and after", told]))
            return Row(f"copy of {COUNT:,}, {names} / embedded to embedded", ratio, ratio, ratio, note=note)

        least, _ = copy(own.name, str(Path(folder) / "copy"))
        for kind in ("milvus", "postgres"):
            if not all(map(find_spec, PACKAGES[kind][0])):
                yield skipped(kind, PACKAGES[kind][1])
                continue
            server = stack.enter_context(milvus_server() if kind == "milvus" else postgres_server())
            url = server.url("photos")
            yield copied(own.name, url, f"embedded to {kind}")
            if options.full:
                yield copied(url, str(Path(folder) / kind), f"{kind} to embedded")
            store = open_index(url)
            yield from row(f"{kind} exact", finder(store), "")
            if options.full:
                for name, build in (MILVUS if kind == "milvus" else POSTGRES).items():
                    started = time.perf_counter()
                    build(server, store)
                    again = open_index(store.name)
                    again.settle()
                    note = f"built in {time.perf_counter() - started:.0f} s"
                    yield from row(f"{kind} {name}", finder(again), note)
        for name, made in libraries(vectors, full=options.full):
            started = time.perf_counter()
            try:
                find = made()
            except ModuleNotFoundError as error:
                yield skipped(name, f"{error.name} not installed")
                continue
            yield from row(name, find, f"built in {time.perf_counter() - started:.0f} s")


def fill(store: VectorStore, vectors: Floats) -> None:
    """Write all vectors."""
    for start in range(0, COUNT, BATCH):
        entries = [Entry(f"{at:06d}", None, 480, 640, at, at) for at in range(start, start + BATCH)]
        store.upsert(entries, vectors[start : start + BATCH])


def copy(source: str, target: str) -> tuple[float, str]:
    """Seconds that a copy takes, and how fast it writes and then compares."""
    started, written = time.perf_counter(), 0.0

    def watch(done: int, _: int) -> None:
        nonlocal written
        if done == COUNT:
            written = time.perf_counter() - started

    copy_index(source, target, on_progress=watch)
    seconds = time.perf_counter() - started
    each = f"{COUNT / written:,.0f} written and {COUNT / (seconds - written):,.0f} compared"
    return seconds, f"{COUNT / seconds:,.0f} vectors a second ({each} a second)"


def finder(store: VectorStore) -> Find:
    """The rows of the best vectors, by a store."""
    return lambda queries: [[int(name) for name, _ in hits] for hits in store.search(queries, K)]


def hnsw(server: Postgres, store: VectorStore) -> None:
    """pgvector's graph over float16."""
    server.execute(
        "SET maintenance_work_mem = '2GB'; CREATE INDEX ON photos USING hnsw "
        f"((vector::halfvec({store.dimension})) halfvec_ip_ops)"
    )


def milvus_index(kind: str, **parameters: int) -> Callable[[Milvus, VectorStore], None]:
    """One of Milvus's own in place of the one that is there."""

    def build(server: Milvus, store: VectorStore) -> None:
        from pymilvus import MilvusClient

        client = MilvusClient(server.url("").replace("milvus", "http").rstrip("/"))
        client.release_collection("photos")
        client.drop_index("photos", "vector")
        wanted = client.prepare_index_params()
        wanted.add_index("vector", index_type=kind, metric_type="IP", params=parameters)
        client.create_index("photos", wanted)
        client.load_collection("photos")

    return build


POSTGRES: dict[str, Callable[[Any, VectorStore], None]] = {"HNSW halfvec": hnsw}
MILVUS: dict[str, Callable[[Any, VectorStore], None]] = {
    "HNSW": milvus_index("HNSW", M=16, efConstruction=200),
    "IVF_FLAT": milvus_index("IVF_FLAT", nlist=1024),
    "IVF_SQ8": milvus_index("IVF_SQ8", nlist=1024),
}


def libraries(vectors: Floats, *, full: bool) -> Iterator[tuple[str, Callable[[], Find]]]:
    """Libraries in this process, with all vectors in memory."""

    def faiss_by(description: str, **settings: int) -> Find:
        import faiss

        index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:50_000])
        index.add(vectors)
        for name, value in settings.items():
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        return lambda queries: index.search(queries, K)[1].tolist()

    def usearch() -> Find:
        from usearch.index import search

        return lambda queries: np.atleast_2d(search(vectors, queries, K, "ip", exact=True).keys).tolist()

    yield "faiss Flat", lambda: faiss_by("Flat")
    yield "usearch exact", usearch
    if full:
        yield "faiss HNSW32", lambda: faiss_by("HNSW32", efSearch=64)
        yield "faiss IVF1024", lambda: faiss_by("IVF1024,Flat", nprobe=16)
        yield "faiss SQ8", lambda: faiss_by("SQ8")


if __name__ == "__main__":
    main(rows)
