"""The index against a dict of vectors."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_common import ENGINE, D, add, content, entry, header, units

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.index import embedded, scan
from simmap.engine.index.database import DATABASE
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry
from simmap.engine.options import Options

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
