"""What every kind of index does alike, on real servers: the embedded one, PostgreSQL and Milvus."""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_common import ENGINE, D, Place, add, content, entry, units
from servers import Postgres

from common import ARTIFACTS, ROOT
from simmap.engine import (
    Engine,
    Options,
    copy_index,
    find_images,
    measure_recall,
    search_embeddings,
    update_index,
)
from simmap.engine.errors import DecompositionError, StoreError
from simmap.engine.index import remote
from simmap.engine.index.check import check_index
from simmap.engine.index.embedded import Index
from simmap.engine.index.opening import open_index
from simmap.engine.index.store import Entry, MissingImageError, VectorStore

NAMES = [
    *"abcd", "ü", "照片/猫.jpg", "a'b", 'a"b', "a\\b", "a\nb", "50%_a", "\udcff", "\ufffd",
    "\ufffddcff", "\U0001f600", "a b/c d",
]  # fmt: skip
LABELS = [None, "", "x", "l\"a\\b'el", "ü", "\udcfe"]
# Few values, so that scores tie.
VECTOR = st.lists(st.integers(-1, 1), min_size=D, max_size=D).filter(any)
STEP = st.one_of(
    st.tuples(
        st.just("upsert"),
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(LABELS), VECTOR), max_size=6),
    ),
    st.tuples(st.just("delete"), st.lists(st.sampled_from(NAMES), max_size=4)),
)
Held = dict[str, tuple[Entry, np.ndarray]]


def apply(target: VectorStore, held: Held, step: tuple[str, list[Any]]) -> None:
    """Do it to the index and to the dict."""
    what, values = step
    if what == "delete":
        there = {name for name in values if name in held}
        assert target.delete(values) == len(there)
        for name in there:
            del held[name]
        return
    vectors = np.array([v for _, _, v in values], np.float64).reshape(-1, D)
    vectors = (vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))).astype(np.float32)
    entries = [Entry(name, label, 4, 6, 2**40, 10**19) for name, label, _ in values]
    target.upsert(entries, vectors)
    held.update({e.id: (e, v) for e, v in zip(entries, vectors, strict=True)})


def check_search(target: VectorStore, held: Held, query: list[int], k: int, exclude: list[str]) -> None:
    """Against products that are written out."""
    array = np.array([query], np.float32) * 3
    (hits,) = target.search(array, k, exclude=exclude)
    shown = {name: v for name, (_, v) in held.items() if name not in exclude}
    products = {
        name: math.fsum(3.0 * a * float(b) for a, b in zip(query, v, strict=True))
        for name, v in shown.items()
    }
    assert len(hits) == min(k, len(shown)) == len({name for name, _ in hits})
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    assert all(abs(score - products[name]) < 1e-13 for name, score in hits)
    for name in shown.keys() - dict(hits):
        assert products[name] <= hits[-1][1] + 1e-13
        assert all(hit < name for hit, _ in hits if np.array_equal(shown[hit], shown[name]))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(STEP, min_size=1, max_size=5),
    query=VECTOR,
    k=st.integers(1, len(NAMES) + 2),
    exclude=st.lists(st.sampled_from(NAMES), max_size=2),
)
def test_an_index_holds_and_finds_what_a_dict_does(
    place: Place, steps: list[Any], query: list[int], k: int, exclude: list[str]
) -> None:
    target = shared(place)
    other = open_index(target.name)
    target.delete(target.ids())
    held: Held = {}
    for step in steps:
        apply(target, held, step)
        # Another connection sees it as soon as the write has returned.
        assert len(other) == len(held)
        assert content(other) == {name: (e, v.tobytes()) for name, (e, v) in held.items()}
        check_search(other, held, query, k, exclude)
    assert other.ids() == sorted(held)
    assert other.ids("a", "b") == [name for name in sorted(held) if "a" <= name < "b"]
    every = [e.label for e, _ in held.values()]
    assert other.labels() == {label: every.count(label) for label in every}
    assert list(other.labels()) == sorted(set(every), key=lambda label: (label is not None, label or ""))
    for label in {*every, "none"} - {None}:
        assert {e.id for e in other.entries(label)} == {n for n, (e, _) in held.items() if e.label == label}


_shared: dict[str, VectorStore] = {}


def shared(place: Place) -> VectorStore:
    """One index for all examples, since some servers take seconds to make one."""
    if place.kind not in _shared or place.kind == "embedded":
        _shared[place.kind] = place.make(str(place.root / "shared") if place.kind == "embedded" else None)
    return _shared[place.kind]


def test_an_empty_index_gives_nothing(place: Place) -> None:
    target = place.make()
    assert len(target) == 0 and target.ids() == [] and target.entries() == [] and target.labels() == {}
    assert target.search(np.ones((2, D)), 5) == [[], []] and target.search(np.empty((0, D)), 5) == []
    assert target.get([])[1].shape == (0, D) and target.delete(["a"]) == 0 and target.delete([]) == 0
    target.upsert([], np.empty((0, D)))
    add(target, 0, "a", "b")
    assert len(target.search(np.ones((1, D)), 10**6)[0]) == 2
    assert target.search(np.ones((1, D)), 3, exclude=["a", "b", "none"]) == [[]]
    assert target.size() >= 4 * D * 2  # bytes of the vectors at least
    if place.kind == "milvus":
        assert target.size() == 4 * D * 2
    with pytest.raises(MissingImageError, match="has no image 'c'"):
        target.get(["a", "c"])


def test_answers_are_those_of_the_embedded_index(place: Place, tmp_path: Path) -> None:
    target, own = place.make(), Index.create(tmp_path / "own", ENGINE, tmp_path)
    rng = np.random.default_rng(1)
    vectors = units(0, 3000)[rng.integers(0, 1500, 3000)]  # with copies
    entries = [entry(f"{at:05d}", f"{at % 7}") for at in rng.permutation(3000)]
    for one in (own, target):
        for start in range(0, 3000, 1000):
            one.upsert(entries[start : start + 1000], vectors[start : start + 1000])
    gone = [f"{at:05d}" for at in range(0, 3000, 17)]
    assert target.delete(gone) == own.delete(gone)
    queries = np.concatenate([vectors[:5], rng.normal(size=(5, D)) * [[1e-6], [1], [1], [100], [1e6]]])
    for k in (1, 10, 200):
        found, expected = target.search(queries, k), own.search(queries, k)
        assert found == expected
    # All that a query of nothing can be ranked by are the ids.
    assert target.search(np.zeros((1, D)), 3) == own.search(np.zeros((1, D)), 3)
    (by_class,) = search_embeddings(target, queries[:1], 7, per_class=True)
    assert by_class.hits == search_embeddings(own, queries[:1], 7, per_class=True)[0].hits
    assert target.labels() == own.labels() and set(target.entries("3")) == set(own.entries("3"))


def test_of_many_copies_the_first_ids_are_found(place: Place) -> None:
    target = place.make()
    names = [f"{at:03d}" for at in range(120)]
    target.upsert([entry(name) for name in reversed(names)], np.repeat(units(3, 1), 120, axis=0))
    add(target, 4, "z")
    for k in (1, 5, 119):
        assert [name for name, _ in target.search(units(3, 1), k)[0]] == names[:k]


def test_an_index_keeps_to_its_model_and_folder(place: Place) -> None:
    name = place.name()
    first = place.make(name)
    add(first, 0, "a")
    assert content(place.make(name)) == content(first)
    assert open_index(name).about == first.about and open_index(name).dimension == D
    other = Engine(ARTIFACTS / "max.onnx", device="cpu")
    with pytest.raises(StoreError, match=r"was built by another model, .*avg\.onnx .*max\.onnx"):
        place.make(name, other)
    with pytest.raises(StoreError, match="was built by another model"):
        open_index(name).check_model(other)
    with pytest.raises(StoreError, match="is the index of the folder"):
        Place(place.kind, place.server, place.root / "more").make(name)
    with pytest.raises(StoreError, match="is no index; make one with: simmap index build"):
        open_index(place.name())
    assert first.ids_below(place.root / "a") == ["a"] == first.ids_below("/")


def test_wrong_vectors_and_queries_are_refused(place: Place) -> None:
    target = place.make()
    with pytest.raises(DecompositionError, match="must have length 1"):
        target.upsert([entry("a")], np.ones((1, D)))
    with pytest.raises(DecompositionError, match="vectors have shape"):
        target.upsert([entry("a")], np.ones((1, D + 1)))
    with pytest.raises(DecompositionError, match="queries have shape"):
        target.search(np.ones((1, D + 1)), 1)
    with pytest.raises(DecompositionError, match="k is 0"):
        target.search(np.ones((1, D)), 0)
    with pytest.raises(DecompositionError, match="NaN"):
        target.search(np.full((1, D), np.nan), 1)
    assert len(target) == 0


def test_more_images_than_a_server_gives_at_once_are_all_read(place: Place) -> None:
    target, count = place.make(), 17_000
    names = [f"{at:06d}" for at in np.random.default_rng(0).permutation(count)]
    entries = [entry(name, f"{int(name) % 3}") for name in names]
    vectors = units(0, count)
    for start in range(0, count, 4000):
        target.upsert(entries[start : start + 4000], vectors[start : start + 4000])
        if place.kind == "milvus" and start == 8000:
            from pymilvus import MilvusClient

            server, _, collection = target.name.replace("milvus", "http").rpartition("/")
            MilvusClient(server).flush(collection)  # some rows lie in a file, others in memory
    assert target.delete(names[:10]) == 10
    assert target.ids() == sorted(names[10:]) and set(target.entries()) == set(entries[10:])
    assert target.ids("005000", "016000") == sorted(n for n in names[10:] if "005000" <= n < "016000")
    assert sum(target.labels().values()) == len(target) == count - 10
    assert len(target.get(target.ids())[0]) == count - 10
    query = units(1, 1)
    sums = vectors[10:].astype(np.float64) @ query[0].astype(np.float64)
    expected = [names[10:][at] for at in np.argsort(-sums)]
    assert [name for name, _ in target.search(query, 16_000)[0]] == expected[:16_000]
    if place.kind == "milvus":
        with pytest.raises(StoreError, match="Milvus gives at most 16384 images at once"):
            target.search(query, 17_000)
    else:
        assert [name for name, _ in target.search(query, 17_000)[0]] == expected


def test_several_may_make_the_same_index(place: Place) -> None:
    name = place.name()
    with ThreadPoolExecutor(4) as threads:
        made = [future.result() for future in [threads.submit(place.make, name) for _ in range(4)]]
    for at, one in enumerate(made):
        add(one, at, f"{at}")
    assert all(len(one) == 4 for one in made)


WRITER = """
import sys
import numpy as np
from index_common import units, entry
from simmap.engine.index.opening import open_index
target, seed = open_index(sys.argv[1]), int(sys.argv[2])
for turn in range(5):
    shared = [entry(f"shared{at}", str(seed)) for at in range(10)]
    own = [entry(f"own{seed}-{turn}-{at}", str(seed)) for at in range(10)]
    target.upsert([*own, *shared], units(seed, 20))
"""


def writer(name: str, seed: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(seed)],
        cwd=ROOT / "tests", text=True, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_writers_at_the_same_time_lose_nothing(place: Place) -> None:
    target = place.make()
    writers = [writer(target.name, seed) for seed in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0], errors
    held = content(target)
    assert len(held) == 3 * 5 * 10 + 10
    for name, (one, vector) in held.items():
        assert one.label is not None
        at = 10 + int(name[6:]) if name.startswith("shared") else int(name.rpartition("-")[2])
        # Each image is as one of the writers wrote it, entry and vector of the same.
        assert vector == units(int(one.label), 20)[at].tobytes()


def test_a_killed_writer_leaves_whole_images_and_the_next_goes_on(place: Place) -> None:
    target = place.make()
    for delay in (0.0, 0.05, 0.2):
        process = writer(target.name, 7)
        seen = len(target)
        until = time.monotonic() + 60
        while len(target) == seen and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.communicate()
        for name, (_, vector) in content(target).items():
            at = 10 + int(name[6:]) if name.startswith("shared") else int(name.rpartition("-")[2])
            assert vector == units(7, 20)[at].tobytes()
    last = writer(target.name, 7)
    assert last.communicate(timeout=120)[1] == "" and last.returncode == 0
    assert len(target) == 60 == len(content(target))


@pytest.mark.parametrize("place", ["postgres", "milvus"], indirect=True)
def test_a_server_that_has_gone_is_one_line_and_one_that_comes_back_is_waited_for(place: Place) -> None:
    assert place.server is not None
    target = place.make()
    add(target, 0, *"abc")

    def first() -> tuple[list[Entry], bytes]:
        entries, vectors = target.get([*"abc"])
        return entries, vectors.tobytes()

    before = first()
    uses: list[Callable[[], Any]] = [
        first,
        lambda: target.search(units(0, 1), 1)[0][0][0],
        lambda: {one.id for one in target.entries()},
        lambda: len(target),
        lambda: target.upsert([entry("d")], units(9, 1)),
        lambda: target.delete(["e"]),
    ]
    place.server.stop()
    starting = threading.Timer(1.0, place.server.start)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote, "PAUSES", (0.1, 0.1))
            for use in (*uses, lambda: open_index(target.name)):
                with pytest.raises(StoreError, match="cannot be reached or has gone") as caught:
                    use()
                assert "\n" not in str(caught.value) and str(caught.value).startswith(target.name)
        starting.start()
        with ThreadPoolExecutor(len(uses)) as threads:
            held, best, names, count, *_ = [
                future.result() for future in [threads.submit(use) for use in uses]
            ]
        assert held == before and best == "a"
        assert names in (set("abc"), set("abcd")) and count in (3, 4)
    finally:
        if not starting.is_alive() and not starting.finished.is_set():
            starting.start()
        starting.join()
    assert content(target).keys() == set("abcd")


def test_an_approximate_index_is_searched_once_its_recall_is_known(place: Place, tmp_path: Path) -> None:
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=1))
    rng = np.random.default_rng(0)
    for at in range(40):
        cv2.imwrite(str(place.root / f"{at}.png"), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    target = place.make()
    update_index(target, engine, find_images(place.root))
    # Vectors of no photo, among which an approximate index has something to miss.
    target.upsert([entry(f"none/{at}") for at in range(3000)], units(0, 3000))
    exact = measure_recall(engine, target, queries=20)
    assert exact == (1.0, 1.0, 20, 3040) and target.recall is None
    if place.server is None:
        return
    coarse(place, target)
    opened = open_index(target.name)
    assert opened.approximate is not None and opened.recall is None
    with pytest.raises(
        StoreError, match=r"whose recall is unknown; measure it with: simmap index check .* --recall"
    ):
        search_embeddings(opened, units(1, 1))
    measured = measure_recall(engine, opened, queries=20)
    assert 0 < measured.region <= 1 and 0 < measured.whole <= 1 and measured == opened.recall
    again = open_index(target.name)
    assert again.recall == measured and again.about == target.about
    queries = units(2, 10)
    truth = target.search(queries, 3040)
    for one, full in zip(again.search(queries, 10), truth, strict=True):
        # Whatever it finds has its exact score, best first.
        assert one == sorted(one, key=lambda hit: (-hit[1], hit[0])) and len(one) == 10
        assert set(one) <= set(full)
    assert len(search_embeddings(again, queries, 2)) == 10


def coarse(place: Place, target: VectorStore) -> None:
    """Put an approximate index on it, as the engine's own users do."""
    table = target.name.rpartition("table=" if place.kind == "postgres" else "/")[2]
    if place.kind == "postgres":
        assert isinstance(place.server, Postgres)
        place.server.execute(
            f"CREATE INDEX ON {table} USING hnsw ((vector::halfvec({D})) halfvec_ip_ops) "
            "WITH (m = 4, ef_construction = 16)"
        )
        return
    from pymilvus import MilvusClient

    client = MilvusClient(target.name.replace("milvus", "http").rpartition("/")[0])
    client.release_collection(table)
    client.drop_index(table, "vector")
    parameters = client.prepare_index_params()
    parameters.add_index("vector", index_type="IVF_SQ8", metric_type="IP", params={"nlist": 256})
    client.create_index(table, parameters)
    client.load_collection(table)


def test_a_copy_has_the_same_images_and_goes_on_where_it_stopped(place: Place, tmp_path: Path) -> None:
    own = Index.create(tmp_path / "own", ENGINE, place.root)
    names = [f"{at:04d}" for at in range(2500)]
    own.upsert([entry(name, NAMES[at % len(NAMES)]) for at, name in enumerate(names)], units(0, 2500))
    there, back = place.name(), str(tmp_path / "back")
    done: list[tuple[int, int]] = []

    def interrupt(count: int, total: int) -> None:
        done.append((count, total))
        if count >= 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_index(own.name, there, on_progress=interrupt)
    assert done == [(0, 5000), (1000, 5000)] and len(open_index(there)) == 1000
    # One that was written in between with another vector is mended.
    open_index(there).upsert([own.entries()[0]], units(5, 1))
    target, copied = copy_index(own.name, there)
    assert vars(copied) == {"copied": 1501, "kept": 999} and content(target) == content(own)
    assert copy_index(own.name, there)[1].copied == 0
    other, _ = copy_index(there, back)
    assert content(other) == content(own) and other.about == own.about
    queries = units(3, 5)
    assert target.search(queries, 10) == own.search(queries, 10) == other.search(queries, 10)
    own.delete(["0007"])
    with pytest.raises(StoreError, match=r"has 1 images that .* lacks, such as 0007"):
        copy_index(own.name, there)
    with pytest.raises(StoreError, match="was built by another model"):
        copy_index(own.name, place.make(engine=Engine(ARTIFACTS / "max.onnx", device="cpu")).name)


@pytest.mark.parametrize("place", ["postgres", "milvus"], indirect=True)
def test_a_changed_vector_is_found_by_a_read_and_by_a_check(place: Place) -> None:
    assert place.server is not None
    target = place.make()
    add(target, 0, *"abc")
    assert check_index(target).data() == {"images": 3, "rows": 3, "bytes": 3 * 4 * D}
    table = target.name.rpartition("table=" if place.kind == "postgres" else "/")[2]
    if place.kind == "postgres":
        assert isinstance(place.server, Postgres)
        place.server.execute(
            f"UPDATE {table} SET vector = (SELECT vector FROM {table} WHERE id = 'a') WHERE id = 'b'"
        )
    else:
        from pymilvus import MilvusClient

        client = MilvusClient(target.name.replace("milvus", "http").rpartition("/")[0])
        (row,) = client.query(table, filter='id == "b"', output_fields=["*"], consistency_level="Strong")
        client.upsert(table, [{**row, "label": "other"}])
    for use in (lambda: target.get(["b"]), lambda: target.search(units(0, 1), 3)):
        with pytest.raises(StoreError, match="the image b is damaged"):
            use()
    with pytest.raises(StoreError, match="1 of 3 images are damaged, first b"):
        check_index(target)
    assert target.delete(["b"]) == 1
    assert check_index(target).images == 2
