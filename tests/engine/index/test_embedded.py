"""The index of images: against a dict, against kills, other writers, damage and a full disk."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common import ARTIFACTS
from simmap.engine import Engine, ImageError
from simmap.engine.dataset import Item, find_images
from simmap.engine.errors import DecompositionError, StoreError
from simmap.engine.index import embedded, scan, update
from simmap.engine.index.database import DATABASE, Header, reading
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry, identity
from simmap.engine.index.update import Update, update_index
from simmap.engine.options import Options

ENGINE = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=1))
D = ENGINE.contract.dimension
Run = Callable[[list[dict[str, Any]]], list[list[str]]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Jobs of ``index_worker.py``, and what each of them wrote."""
    worker = [sys.executable, str(Path(__file__).with_name("index_worker.py"))]
    with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        send, receive = process.stdin, process.stdout

        def ask(jobs: list[dict[str, Any]]) -> list[list[str]]:
            send.write(json.dumps(jobs) + "\n")
            send.flush()
            answers: list[list[str]] = json.loads(receive.readline())
            return answers

        yield ask
        send.close()


@pytest.fixture
def made(tmp_path: Path) -> Index:
    """An empty index."""
    return Index.create(tmp_path / "index", ENGINE, tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty small photos of noise in three classes, and a file that is no image."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    (tmp_path / "photos" / "class1" / "30.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def entry(name: str, label: str | None = "x", size: int = 1) -> Entry:
    return Entry(name, label, 4, 6, size, 10**18)


def units(seed: int, count: int, dimension: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def add(target: Index, seed: int, *names: str) -> None:
    target.upsert([entry(name) for name in names], units(seed, len(names)))


def content(target: Index) -> dict[str, tuple[Entry, bytes]]:
    entries = target.entries()
    kept, vectors = target.get([e.id for e in entries])
    assert kept == entries and len(target) == len(entries)
    return {e.id: (e, v.tobytes()) for e, v in zip(entries, vectors, strict=True)}


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def vectors_of(path: Path) -> bytes:
    (only,) = path.glob("*.f32")
    return only.read_bytes()


def header(path: Path) -> Header:
    with reading(path) as database:
        return database.header


# --- against a dict -----------------------------------------------------------------------------

NAMES = [*"abcdefgh", "ü", 'q"\n', "\udcff", "\u2028"]
VECTOR = st.lists(st.integers(-2, 2), min_size=D, max_size=D).filter(any)
SMALL = {
    "CHUNK": (scan, 4 * D * 2),
    "QUERIES": (embedded, 2),
    "COMPACT_ROWS": (embedded, 3),
}


class AgainstADict(RuleBasedStateMachine):
    """Whatever is done to it, an index holds and finds what a dict of vectors does."""

    @initialize()
    def begin(self) -> None:
        self.before = {name: getattr(SMALL[name][0], name) for name in SMALL}
        for name, (module, value) in SMALL.items():
            setattr(module, name, value)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "index"
        self.index = Index.create(self.path, ENGINE, self.folder.name)
        self.other = Index(self.path)
        self.model: dict[str, tuple[Entry, np.ndarray]] = {}

    def teardown(self) -> None:
        if hasattr(self, "before"):
            for name, value in self.before.items():
                setattr(SMALL[name][0], name, value)
            self.folder.cleanup()

    @rule(batch=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([None, "x", "y"]), VECTOR)))
    def upsert(self, batch: list[tuple[str, str | None, list[int]]]) -> None:
        vectors = np.array([v for _, _, v in batch], np.float64).reshape(-1, D)
        vectors = (vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))).astype(np.float32)
        entries = [entry(name, label) for name, label, _ in batch]
        self.index.upsert(entries, vectors)
        for e, v in zip(entries, vectors, strict=True):
            self.model[e.id] = (e, v)

    @rule(names=st.lists(st.sampled_from(NAMES)))
    def delete(self, names: list[str]) -> None:
        there = {name for name in names if name in self.model}
        assert self.index.delete(names) == len(there)
        for name in there:
            del self.model[name]

    @rule(
        queries=st.lists(VECTOR, max_size=5),
        k=st.integers(1, len(NAMES) + 2),
        exclude=st.lists(st.sampled_from(NAMES), max_size=3),
        other=st.booleans(),
    )
    def search(self, queries: list[list[int]], k: int, exclude: list[str], other: bool) -> None:
        target = self.other if other else self.index
        array = np.array(queries, np.float32).reshape(-1, D)
        found = target.search(array, k, exclude=exclude)
        assert len(found) == len(queries)
        shown = {name: v for name, (_, v) in self.model.items() if name not in exclude}
        for query, hits in zip(array, found, strict=True):
            products = {name: math.fsum(query.astype(float) * v.astype(float)) for name, v in shown.items()}
            assert len(hits) == min(k, len(shown)) == len({name for name, _ in hits})
            assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
            assert all(abs(score - products[name]) < 1e-13 for name, score in hits)
            left = shown.keys() - dict(hits)
            assert all(products[name] <= hits[-1][1] + 1e-13 for name in left)
            # Of equal vectors those of the smaller ids are found.
            for name in left:
                assert all(hit < name for hit, _ in hits if np.array_equal(shown[hit], shown[name]))
            assert target.search(query[None], k, exclude=exclude) == [hits]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.model))))
        entries, vectors = self.index.get(names)
        assert entries == [self.model[name][0] for name in names] and vectors.shape == (len(names), D)
        assert all(np.array_equal(v, self.model[n][1]) for n, v in zip(names, vectors, strict=True))

    @rule()
    def reopen(self) -> None:
        self.index = Index.create(self.path, ENGINE, self.folder.name)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        expected = {name: (e, v.tobytes()) for name, (e, v) in self.model.items()}
        assert content(self.index) == expected
        # Nothing is left of other generations, nor of a transaction.
        names = {f"vectors-{header(self.path).generation}.f32", DATABASE}
        assert names - {p.name for p in self.path.iterdir()} <= names - {DATABASE}
        assert {p.name for p in self.path.iterdir()} <= names


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=25)


@given(
    st.integers(0, 10**6),
    st.integers(1, 60) | st.just(1),
    st.integers(1, 400),
    st.sampled_from([0, 0.5, 0.98]),
)
@settings(max_examples=40)
def test_a_result_depends_neither_on_its_row_nor_on_other_queries(
    seed: int, k: int, rows: int, excluded: float
) -> None:
    # With copies: a matrix product rounds equal rows differently, by where they stand in a block.
    rng = np.random.default_rng(seed)
    engine = Engine(ARTIFACTS / "catavgmax.onnx", device="cpu", options=Options(threads=1))
    dimension = engine.contract.dimension
    vectors = units(seed, rows, dimension)[rng.integers(0, max(1, rows // 5), rows)]
    queries = rng.normal(size=(7, dimension)).astype(np.float32)
    hidden = rng.random(rows) < excluded
    exclude = {f"{at:03d}" for at in np.flatnonzero(hidden)}
    before, found = scan.CHUNK, []
    with tempfile.TemporaryDirectory() as folder:
        target = Index.create(Path(folder) / "index", engine, folder)
        target.upsert([entry(f"{at:03d}") for at in range(rows)], vectors)
        try:
            for chunk in (before, 4 * dimension * 13, 1):
                scan.CHUNK = chunk
                found.append(target.search(queries, k, exclude=exclude))
                found.append([target.search(q[None], k, exclude=exclude)[0] for q in queries])
        finally:
            scan.CHUNK = before
    products = queries.astype(np.float64) @ vectors.astype(np.float64).T
    # Copies have one product; differing vectors differ by more than the rounding of float64.
    shown = np.flatnonzero(~hidden)
    ranked = [sorted(shown, key=lambda at: (-round(row[at], 12), at))[:k] for row in products]
    assert [[int(name) for name, _ in hits] for hits in found[0]] == ranked
    assert all(other == found[0] for other in found[1:])


def test_many_results_and_few_images_give_what_there_is(made: Index) -> None:
    assert made.search(np.ones((2, D)), 5) == [[], []]
    assert made.search(np.empty((0, D)), 5) == []
    assert made.get([])[1].shape == (0, D) and made.entries() == [] and len(made) == 0
    add(made, 0, "a", "b")
    assert len(made.search(np.ones((1, D)), 10**6)[0]) == 2
    assert made.search(np.ones((1, D)), 3, exclude=["a", "b", "none"]) == [[]]


@pytest.mark.parametrize(("k", "left"), [(1, 0), (2, 1), (3, 2), (2, 100), (60, 100), (120, 100)])
def test_what_is_hidden_is_never_found_even_where_it_comes_first(made: Index, k: int, left: int) -> None:
    names = [f"{n:03d}" for n in range(400)]
    add(made, 0, *names)
    made.delete(names[:150])
    (hits,) = made.search(np.ones((1, D)), k, exclude=names[150 : 400 - left])
    sums = dict(zip(names, units(0, 400).astype(np.float64).sum(axis=1), strict=True))
    shown = names[400 - left :]
    assert [name for name, _ in hits] == sorted(shown, key=lambda name: -sums[name])[:k]


# --- kills --------------------------------------------------------------------------------------


def operations(seed: int, count: int) -> list[list[Any]]:
    """Upserts and deletions of a few ids, as JSON."""
    rng = np.random.default_rng(seed)
    found: list[list[Any]] = []
    for step in range(count):
        names = [str(name) for name in rng.choice(9, rng.integers(1, 5), replace=False)]
        if rng.random() < 0.3:
            found.append(["delete", names])
        else:
            batch = [list(entry(name, size=step)) for name in names]
            found.append(["upsert", batch, units(seed + step, len(names)).tolist()])
    return found


def states(steps: list[list[Any]]) -> list[dict[str, tuple[Entry, bytes]]]:
    """What an index holds before the first operation and after each."""
    held: dict[str, tuple[Entry, bytes]] = {}
    found = [{}]
    for name, *arguments in steps:
        if name == "delete":
            held = {n: value for n, value in held.items() if n not in arguments[0]}
        elif name == "upsert":
            vectors = np.array(arguments[1], np.float32)
            new = {e[0]: (Entry(*e), v.tobytes()) for e, v in zip(arguments[0], vectors, strict=True)}
            held = {**held, **new}
        found.append(held)
    return found


def test_a_kill_at_any_line_of_a_write_leaves_the_old_state_or_the_new(made: Index, run: Run) -> None:
    prepared = operations(1, 12)
    before = states(prepared)
    assert run([{"do": "write", "with": [str(made.path), prepared]}]) == [[str(n) for n in range(12)]]
    # Everything replaced and one more write: the first is compacted, the second cleans up.
    everything = [list(entry(name, size=99)) for name in sorted(before[-1])]
    new = [["upsert", everything, units(5, len(everything)).tolist()], ["delete", [everything[0][0]]]]
    allowed = states([*prepared, *new])[-3:]
    start, seen, line, step = files(made.path), set(), 1, 7
    while True:
        shutil.rmtree(made.path)
        made.path.mkdir()
        for name, data in start.items():
            (made.path / name).write_bytes(data)
        (told,) = run([{"do": "write", "with": [str(made.path), new], "at": line}])
        held = content(Index(made.path))
        assert held in allowed[len(told) :][:2]
        seen.add((len(told), allowed.index(held), len(list(made.path.glob("*.f32")))))
        if len(told) == len(new):
            break
        # The next writer goes on as if nothing had been.
        again = Index(made.path)
        add(again, 7, "next")
        assert content(Index(made.path)).keys() == held.keys() | {"next"}
        assert len(list(made.path.iterdir())) == 2
        line += step
    # Kills before and after the commit, and with the files of two generations.
    assert {(0, 0, 1), (0, 1, 1), (0, 1, 2), (1, 1, 1), (2, 2, 1)} <= seen


def test_a_writer_killed_at_any_time_loses_nothing_that_it_reported(made: Index, run: Run) -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        shutil.rmtree(made.path)
        Index.create(made.path, ENGINE, made.root)
        steps = operations(100 * seed, 30)
        expected = states(steps)
        after, delay = int(rng.integers(0, 20)), float(rng.uniform(0, 0.01))
        job = {"do": "write", "with": [str(made.path), steps], "after": after, "delay": delay}
        (told,) = run([job])
        assert told == [str(n) for n in range(len(told))] and len(told) >= after
        assert content(Index(made.path)) in expected[len(told) :][:2]
        add(Index(made.path), 3, "next")
        assert "next" in content(Index(made.path))


def test_a_killed_build_resumes_and_ends_with_the_same_files(tmp_path: Path, photos: Path, run: Run) -> None:
    model = str(ENGINE.model)
    calm = tmp_path / "calm"
    (told,) = run([{"do": "build", "with": [str(calm), model, str(photos)]}])
    assert told[-1] == "built" and len(Index(calm)) == 60
    rng = np.random.default_rng(0)
    path, kills, partial = tmp_path / "killed", 0, 0
    job = {"do": "build", "with": [str(path), model, str(photos)]}
    while kills < 20:
        before: dict[str, Any] = content(Index(path)) if (path / DATABASE).exists() else {}
        after, delay = int(rng.integers(0, 4)), float(rng.uniform(0, 0.02))
        (told,) = run([{**job, "after": after, "delay": delay}])
        if "built" in told:
            assert vectors_of(path) == vectors_of(calm) and content(Index(path)) == content(Index(calm))
            shutil.rmtree(path)
            continue
        kills += 1
        if not told and not (path / DATABASE).exists():
            continue
        held = content(Index(path))
        assert before.items() <= held.items()
        assert len(held) >= max([0, *map(int, told)]) - 1  # one is no image
        partial += 0 < len(held) < 60
    assert partial >= 5
    assert run([job])[0][-1] == "built"
    assert vectors_of(path) == vectors_of(calm) and content(Index(path)) == content(Index(calm))


# --- several processes --------------------------------------------------------------------------


def test_writers_at_the_same_time_lose_and_double_nothing(made: Index, run: Run) -> None:
    shared = [entry(f"shared{n}") for n in range(5)]
    vectors = units(9, 5).tolist()
    jobs = []
    for writer in "abc":
        steps: list[list[Any]] = []
        for n in range(25):
            steps.append(["upsert", [list(entry(f"{writer}{n}"))], units(n, 1).tolist()])
            steps.append(["upsert", [list(shared[n % 5])], [vectors[n % 5]]])
            if n % 2:
                steps.append(["delete", [f"{writer}{n - 1}"]])
        jobs.append({"do": "write", "with": [str(made.path), steps]})
    *told, read = run([*jobs, {"do": "read", "with": [str(made.path), 1.0]}])
    assert all(lines == [str(n) for n in range(62)] for lines in told)
    assert read == ["read"]
    names = {f"{w}{n}" for w in "abc" for n in range(25) if n % 2 or n == 24} | {e.id for e in shared}
    held = content(Index(made.path))
    assert held.keys() == names and content(made) == held
    # An image that is there already takes no second row; readers saw files of several generations.
    with closing(sqlite3.connect(made.path / DATABASE)) as connection:
        rows = [bytes(name).decode() for (name,) in connection.execute("SELECT id FROM images")]
    assert all(rows.count(e.id) == 1 for e in shared)
    assert header(made.path).generation > 2


def test_builders_at_the_same_time_make_one_index(tmp_path: Path, photos: Path, run: Run) -> None:
    path = tmp_path / "index"
    job = {"do": "build", "with": [str(path), str(ENGINE.model), str(photos)]}
    for told in run([job] * 3):
        assert told[-1] == "built"
    target = Index(path)
    assert len(target) == 60 == header(path).rows
    assert {e.id for e in target.entries()} == {str(p.relative_to(photos)) for p in photos.rglob("*.png")}


def test_a_reader_sees_the_writes_of_another_process(made: Index, run: Run) -> None:
    steps = operations(2, 40)
    for n, state in enumerate(states(steps)[1:]):
        assert run([{"do": "write", "with": [str(made.path), steps[n : n + 1]]}]) == [["0"]]
        assert content(made) == state
    assert header(made.path).generation > 2


def test_threads_read_while_others_write(made: Index) -> None:
    add(made, 0, *(f"old{n}" for n in range(20)))
    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None]) -> Callable[[], None]:
        def loop() -> None:
            try:
                for n in range(40):
                    work(n)
            except BaseException as error:
                failures.append(error)

        return loop

    def look(n: int) -> None:
        (hits,) = made.search(np.eye(D)[n % D][None], 5, exclude=["old0"])
        assert len(hits) == 5

    jobs = [lambda n: add(made, n, f"a{n}"), lambda n: add(made, n, f"b{n}"), look, look]
    threads = [threading.Thread(target=guarded(job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(made) == 100 == len(Index(made.path))


@pytest.mark.parametrize("rows", [0, 2, 3, 5])
def test_an_index_built_anew_in_its_place_is_not_mixed_with_the_old(made: Index, rows: int) -> None:
    names = ["a", "b", "c", "d", "e"]
    add(made, 0, *names[:3])
    assert len(made.search(np.ones((1, D)), 9)[0]) == 3
    shutil.rmtree(made.path)
    with pytest.raises(StoreError, match="is no index; make one with"):
        made.search(np.ones((1, D)), 9)
    anew = Index.create(made.path, ENGINE, made.root)
    if rows:
        add(anew, 1, *names[:rows])  # the same log, as far as it goes, with other vectors
    assert content(made) == content(anew) and len(made) == rows
    assert made.search(np.ones((1, D)), 9) == anew.search(np.ones((1, D)), 9)
    add(made, 2, "z")
    assert content(Index(made.path)) == content(anew) == content(made)


def test_an_index_built_over_files_without_a_manifest_leaves_its_readers_alone(made: Index) -> None:
    add(made, 0, *"abcdefgh")
    made.get(["a"])
    assert made._mapped is not None
    mapped = made._mapped[1].rows
    assert len(mapped) == 8
    before = mapped.copy()
    (made.path / DATABASE).unlink()
    anew = Index.create(made.path, ENGINE, made.root)
    add(anew, 1, "a")
    assert np.array_equal(mapped, before)  # cutting the file short would be a bus error
    assert content(made) == content(anew)


def test_an_index_built_anew_by_another_model_is_refused(made: Index) -> None:
    add(made, 0, "a")
    shutil.rmtree(made.path)
    Index.create(made.path, Engine(ARTIFACTS / "crop.onnx", device="cpu"), made.root)
    for use in (lambda: made.search(np.ones((1, D)), 1), lambda: add(made, 0, "b"), made.entries):
        with pytest.raises(StoreError, match=r"was built anew by .*crop\.onnx .*; open it again"):
            use()


# --- errors -------------------------------------------------------------------------------------


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="is no index; make one with: simmap index build IMAGES -o"):
            Index(path)
    with pytest.raises(StoreError, match="other files in it; give a new folder"):
        Index.create(tmp_path, ENGINE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    for path in (tmp_path / "none" / "index", tmp_path / "file"):
        with pytest.raises(StoreError, match="cannot be written: "):
            Index.create(path, ENGINE, tmp_path)


def test_an_index_of_another_root_is_refused(made: Index, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is the index of the folder .*; give another -o, or add to it"):
        Index.create(made.path, ENGINE, tmp_path / "other")


def test_another_model_or_size_is_refused(made: Index, tmp_path: Path) -> None:
    other = Engine(ARTIFACTS / "crop.onnx", device="cpu")
    for use in (lambda: Index.create(made.path, other, tmp_path), lambda: update_index(made, other, [])):
        with pytest.raises(StoreError, match=r"was built by another model, .*avg\.onnx .*crop\.onnx"):
            use()
    own, large, same = (
        Engine(ARTIFACTS / "dynamic.onnx", device="cpu", options=Options(size=size))
        for size in (None, (32, 40), (16, 24))
    )
    assert identity(own) == identity(same) != identity(large)
    target = Index.create(tmp_path / "dynamic", own, tmp_path)
    target.check_model(same)
    with pytest.raises(StoreError, match="@32x40"):
        target.check_model(large)


def sql(*statements: str) -> Callable[[Path], None]:
    """Damage by statements on the database of an index."""

    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return change


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Damage of a file, which is another one then: one may not cut a file that is mapped."""

    def apply(folder: Path) -> None:
        data = change((folder / name).read_bytes())
        (folder / name).unlink()
        (folder / name).write_bytes(data)

    return apply


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def folder_at(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def pipe_at(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


UNREADABLE: list[tuple[Callable[[Path], None], str]] = [
    (bytes_of(DATABASE, lambda b: b[:5000]), r"index\.sqlite: is damaged \(.*\); build the index anew"),
    (bytes_of(DATABASE, lambda b: b"\xff" + b), r"index\.sqlite: is damaged \(file is not a database\)"),
    (bytes_of(DATABASE, lambda b: b"x" * 10**5), r"index\.sqlite: is damaged"),
    (bytes_of(DATABASE, lambda b: b[:100] + bytes(len(b) - 100)), r"index\.sqlite: is damaged"),
    (sql("PRAGMA application_id = 7"), "is a database of another program"),
    (sql("PRAGMA user_version = 3"), "has schema 3, this simmap reads schema 2; upgrade simmap"),
    (sql("PRAGMA user_version = 1"), "has schema 1, this simmap reads schema 2; build it anew"),
    (sql("DROP TABLE images"), r"index\.sqlite: is damaged \(it has other tables\)"),
    (sql("CREATE VIEW more AS SELECT 1"), r"is damaged \(it has other tables\)"),
    (sql("DELETE FROM header"), r"index\.sqlite: is damaged \(ValueError"),
    (sql("INSERT INTO header SELECT * FROM header"), r"index\.sqlite: is damaged \(ValueError"),
    (sql("UPDATE header SET rows = -3"), "is damaged .*impossible counts"),
    (sql("UPDATE header SET rows = 'many'"), r"index\.sqlite: is damaged \(ValueError"),
    (sql("UPDATE header SET rows = 1e300"), r"index\.sqlite: is damaged"),
    (sql("UPDATE header SET dimension = NULL"), r"index\.sqlite: is damaged \(TypeError"),
    (sql("UPDATE header SET root = 'text'"), r"index\.sqlite: is damaged \(AttributeError"),
    (sql("UPDATE header SET root = x'ff'"), r"index\.sqlite: is damaged \(UnicodeDecodeError"),
    (sql("UPDATE header SET deaths = 4"), "is damaged .*impossible counts"),
    (sql("UPDATE header SET rows = 9"), r"vectors-1\.f32: is damaged, it is shorter than its 9 rows"),
    (sql("UPDATE header SET generation = 4"), r"vectors-4\.f32: is missing; build the index anew"),
    (folder_at(DATABASE), r"index\.sqlite: is no regular file"),
    (pipe_at(DATABASE), r"index\.sqlite: is no regular file"),
    (bytes_of("vectors-1.f32", lambda b: b[:-1]), r"vectors-1\.f32: is damaged, it is shorter"),
    (bytes_of("vectors-1.f32", lambda b: b""), r"vectors-1\.f32: is damaged, it is shorter"),
    (unlink("vectors-1.f32"), r"vectors-1\.f32: is missing; build the index anew"),
    (folder_at("vectors-1.f32"), r"vectors-1\.f32: is damaged"),
    (pipe_at("vectors-1.f32"), r"vectors-1\.f32: is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), UNREADABLE)
def test_damage_is_named(made: Index, change: Callable[[Path], None], message: str) -> None:
    add(made, 0, "a", "b", "c")
    change(made.path)
    before = [(p.name, p.read_bytes()) for p in sorted(made.path.iterdir()) if p.is_file()]
    for use in (
        lambda: Index(made.path),
        lambda: Index.create(made.path, ENGINE, made.root),
        lambda: made.search(np.ones((1, D)), 1),
        lambda: add(made, 1, "d"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert before == [(p.name, p.read_bytes()) for p in sorted(made.path.iterdir()) if p.is_file()]


@pytest.mark.parametrize("data", [None, b""])
def test_an_index_whose_database_has_gone_is_no_index(made: Index, data: bytes | None) -> None:
    add(made, 0, "a")
    (made.path / DATABASE).unlink()
    if data is not None:
        (made.path / DATABASE).write_bytes(data)
    for use in (lambda: Index(made.path), lambda: len(made), lambda: add(made, 1, "d")):
        with pytest.raises(StoreError, match="is no index; make one with: simmap index build IMAGES -o"):
            use()


def test_an_index_of_the_layout_before_sqlite_is_to_be_built_anew(tmp_path: Path) -> None:
    old = tmp_path / "index"
    old.mkdir()
    for name in ("index.json", "images-1.jsonl", "vectors-1.f32", "lock"):
        (old / name).write_bytes(b"{}")
    for use in (lambda: Index(old), lambda: Index.create(old, ENGINE, tmp_path)):
        with pytest.raises(StoreError, match=r"an earlier simmap .*build it anew with: simmap index build"):
            use()


@pytest.mark.parametrize("left", [None, 10])
def test_an_open_index_does_not_write_on_behind_what_is_gone(made: Index, left: int | None) -> None:
    add(made, 0, "a", "b", "c")
    if left is None:
        unlink("vectors-1.f32")(made.path)
    else:
        bytes_of("vectors-1.f32", lambda b: b[:left])(made.path)
    before = (made.path / DATABASE).read_bytes()
    with pytest.raises(StoreError, match=r"is missing|is damaged"):
        add(made, 1, "d")
    assert (made.path / DATABASE).read_bytes() == before


def test_wrong_arrays_are_refused(made: Index) -> None:
    add(made, 0, "a")
    for queries in (np.ones(D), np.ones((1, D + 1)), np.ones((1, 2, D))):
        with pytest.raises(DecompositionError, match=r"queries have shape .*must be \(m, 8\)"):
            made.search(queries, 1)
    for value in (np.nan, np.inf):
        with pytest.raises(DecompositionError, match="a query has NaN or infinite values"):
            made.search(np.full((1, D), value), 1)
    with pytest.raises(DecompositionError, match="k is 0"):
        made.search(np.ones((1, D)), 0)
    with pytest.raises(DecompositionError, match=r"vectors have shape \(1, 9\), must be \(1, 8\)"):
        made.upsert([entry("b")], units(0, 1, 9))
    for bad in (np.ones((1, D)), np.zeros((1, D)), np.full((1, D), np.nan)):
        with pytest.raises(DecompositionError, match="must have length 1"):
            made.upsert([entry("b")], bad)
    with pytest.raises(StoreError, match="has no image 'b'"):
        made.get(["a", "b"])
    assert content(made).keys() == {"a"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_index_that_cannot_be_written_can_be_read(made: Index) -> None:
    add(made, 0, "a")
    made.path.chmod(0o500)
    try:
        assert len(Index(made.path)) == 1
        for use in (lambda: add(made, 1, "b"), lambda: made.delete(["a"])):
            with pytest.raises(StoreError, match="cannot be written: Permission denied"):
                use()
    finally:
        made.path.chmod(0o700)


def test_a_write_that_runs_out_of_room_leaves_the_old_state(made: Index, run: Run) -> None:
    first = ["upsert", [list(entry(f"a{n}")) for n in range(8)], units(0, 8).tolist()]
    second = ["upsert", [list(entry(f"b{n}")) for n in range(40)], units(1, 40).tolist()]
    errors = set()
    limits = (0, 300, 1000, 1500, 5000, 10_000, 20_000, 40_000, 80_000)
    for limit in limits:
        shutil.rmtree(made.path)
        Index.create(made.path, ENGINE, made.root)
        job = {"do": "write", "with": [str(made.path), [first, ["limit", limit], second]]}
        (told,) = run([job])
        assert told[:2] == ["0", "1"]
        expected = states([first, second])
        if told[2] != "2":
            assert "index: cannot be written: " in told[2] and told[2].startswith("StoreError: ")
            errors.add(limit)
        assert content(Index(made.path)) == expected[1 if limit in errors else 2]
        Index(made.path).upsert([Entry(*e) for e in second[1]], np.array(second[2], np.float32))
        assert content(Index(made.path)) == expected[2]
    assert {0, 10_000} <= errors < {*limits}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 pages."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)  # files are still mapped


def fill(disk: Path, left: int) -> None:
    """Leave that many pages free."""
    with (disk / "other").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            stream.truncate(stream.tell() - 4096 * left)


def test_a_full_disk_leaves_the_old_state(disk: Path, tmp_path: Path) -> None:
    target = Index.create(disk / "index", ENGINE, tmp_path)
    add(target, 0, "a", "b")
    failed = 0
    for left in range(0, 24, 2):
        before = content(target)
        fill(disk, left)
        try:
            add(target, left, *(f"{left}-{n}" for n in range(100)))
        except StoreError as error:
            failed += str(error).endswith("cannot be written: No space left on device")
            assert content(target) == content(Index(target.path)) == before
        else:
            assert len(Index(target.path)) == len(before) + 100
        (disk / "other").unlink()
        add(target, 5, f"c{left}")
        assert f"c{left}" in content(Index(target.path))
    assert 2 <= failed < 12


def test_a_compaction_without_room_is_put_off(disk: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(embedded, "COMPACT_ROWS", 3)
    target = Index.create(disk / "index", ENGINE, tmp_path)
    names = [f"{n:03d}" for n in range(300)]
    add(target, 0, *names)
    before = content(target)
    for left in range(4, 40):  # until there is room for what was asked for
        fill(disk, left)
        try:
            assert target.delete(names[:160]) == 160
            break
        except StoreError:
            assert content(target) == before
            (disk / "other").unlink()
    assert sorted(files(target.path)) == [DATABASE, "vectors-1.f32"]
    (disk / "other").unlink()
    assert content(target) == {name: before[name] for name in names[160:]}
    add(target, 1, "new")
    assert sorted(files(target.path)) == [DATABASE, "vectors-2.f32"]
    assert content(Index(target.path)).keys() == {*names[160:], "new"}


# --- update -------------------------------------------------------------------------------------


def build(path: Path, photos: Path, **options: Any) -> tuple[Index, Update]:
    target = Index.create(path, ENGINE, photos)
    return target, update_index(target, ENGINE, find_images(photos), **options)


def test_an_update_embeds_what_is_new_or_changed(tmp_path: Path, photos: Path) -> None:
    told: list[tuple[int, int]] = []
    target, done = build(tmp_path / "index", photos, on_progress=lambda *counts: told.append(counts))
    assert (done.added, done.kept) == (60, 0) and told[-1] == (61, 61)
    ((path, error),) = done.skipped
    assert path == str(photos / "class1" / "30.jpg") and error.startswith(path)
    first = content(target)
    for vector in ENGINE.vectors([photos / name for name in first]):
        wide = vector.embedding.astype(np.float64)
        name = target.id_of(vector.path)
        kept, (stored,) = target.get([name])
        np.testing.assert_allclose(stored, wide / np.sqrt((wide**2).sum()), atol=1e-6)
        assert kept[0][:4] == (name, name.split("/")[0], 12, 16) and target.path_of(name) == vector.path
    # Nothing to do but to try the unreadable one again.
    before = files(target.path)
    again = build(target.path, photos)[1]
    assert (again.added, again.kept, len(again.skipped)) == (0, 60, 1) and files(target.path) == before
    # One touched, one painted over, one mended, one gone.
    touched, painted, mended, gone = (
        photos / f"class{n}" for n in ("0/00.png", "1/01.png", "1/30.jpg", "2/02.png")
    )
    os.utime(touched, ns=(1, 1))
    cv2.imwrite(str(painted), np.zeros((30, 20, 3), np.uint8))
    cv2.imwrite(str(mended), np.full((5, 5, 3), 200, np.uint8))
    gone.unlink()
    third = build(target.path, photos)[1]
    assert (third.added, third.kept, third.removed, third.skipped) == (3, 57, 0, ())
    held = content(Index(target.path))
    same = {n for n in first if first[n] == held[n]}
    assert held.keys() - first.keys() == {"class1/30.jpg"}
    assert first.keys() - same == {"class0/00.png", "class1/01.png"}
    assert held["class0/00.png"][1] == first["class0/00.png"][1]
    # What cannot be read any more goes; what is gone goes only where it is asked for.
    mended.write_bytes(b"no image")
    assert update_index(target, ENGINE, find_images(photos)).removed == 1
    assert update_index(target, ENGINE, find_images(photos), prune=True).removed == 1
    assert content(target).keys() == first.keys() - {"class2/02.png"}
    assert held["class1/01.png"][0].height == 30 and held["class1/01.png"][1] != first["class1/01.png"][1]


def test_an_image_of_another_class_keeps_its_vector(tmp_path: Path, photos: Path) -> None:
    target, _ = build(tmp_path / "index", photos)
    before = content(target)
    items = [Item(item.path, "new") for item in find_images(photos)]
    done = update_index(target, ENGINE, [*items, Item(os.path.relpath(items[0].path), "new")])
    assert (done.added, done.kept) == (0, 60)
    expected = {name: (e._replace(label="new"), v) for name, (e, v) in before.items()}
    assert content(Index(target.path)) == expected


def test_strict_stops_at_what_cannot_be_embedded_and_keeps_what_was_done(
    tmp_path: Path, photos: Path
) -> None:
    with pytest.raises(ImageError, match=r"30\.jpg"):
        build(tmp_path / "index", photos, strict=True)
    held = content(Index(tmp_path / "index"))
    images = find_images(photos)
    bad = next(at for at, item in enumerate(images) if item.path.endswith("30.jpg"))
    assert [str(photos / name) for name in held] == [item.path for item in images[:bad]]
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        update_index(Index(tmp_path / "index"), ENGINE, [Item(str(photos / "gone.png"))], strict=True)


def test_an_interrupt_keeps_what_was_done(tmp_path: Path, photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(update, "COMMIT_ROWS", 7)
    calm, _ = build(tmp_path / "calm", photos)

    def interrupt(done: int, total: int) -> None:
        if done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", photos, on_progress=interrupt)
    assert len(Index(tmp_path / "index")) == 14
    target, done = build(tmp_path / "index", photos)
    assert (done.added, done.kept) == (46, 14) and content(target) == content(calm)
    assert vectors_of(target.path) == vectors_of(calm.path)


def test_an_image_elsewhere_has_its_absolute_path_for_an_id(tmp_path: Path, photos: Path) -> None:
    target, _ = build(tmp_path / "index", photos)
    elsewhere = tmp_path / "one.png"
    shutil.copy(photos / "class0" / "00.png", elsewhere)
    done = update_index(
        target, ENGINE, [Item(str(elsewhere)), Item(str(tmp_path / "photos" / ".." / "one.png"))]
    )
    assert done.added == 1 and len(target) == 61
    (first, _), (second, _) = target.search(target.get([str(elsewhere)])[1], 2)[0]
    assert [first, second] == sorted([str(elsewhere), "class0/00.png"])
    assert target.path_of(str(elsewhere)) == str(elsewhere) and target.id_of(elsewhere) == str(elsewhere)
