"""A changed byte is found and named: by a search that reads it, and by a check of all."""

import math
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_common import ENGINE, D, add, header, units

from simmap.engine.errors import StoreError
from simmap.engine.index import scan, vectors
from simmap.engine.index.check import check_index
from simmap.engine.index.database import DATABASE
from simmap.engine.index.embedded import Index

NAMES = [f"{n:02d}.png" for n in range(20)]


def attempt(use: Callable[[], Any]) -> tuple[Any, str]:
    """The result, or None and the StoreError's message."""
    try:
        return use(), ""
    except StoreError as error:
        return None, str(error)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of the file itself, which readers have mapped."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def set_row(target: Index, row: int, vector: np.ndarray, *, consistent: bool) -> None:
    """Write a row and, if it shall be consistent, its checksum."""
    write_at(target.path / "vectors-1.f32", 4 * D * row, vector.astype("<f4").tobytes())
    if consistent:
        (entry,) = (e for e in target.entries() if e.id == NAMES[row])
        crc = vectors.checksum(entry, vector.astype(np.float32))
        with closing(sqlite3.connect(target.path / DATABASE)) as connection, connection:
            connection.execute("UPDATE images SET checksum = ? WHERE row = ?", (crc, row))


def test_a_check_counts_what_it_verified(made: Index) -> None:
    assert check_index(made).data() == {"images": 0, "rows": 0, "bytes": 0}
    add(made, 0, *NAMES)
    made.delete(NAMES[:3])
    calls: list[tuple[int, int]] = []
    checked = check_index(made, on_progress=lambda *counts: calls.append(counts))
    assert checked.data() == {"images": 17, "rows": 20, "bytes": 20 * D * 4}
    assert calls == [(20, 20)]


@given(st.integers(0, 20 * D * 4 - 1), st.integers(1, 255), st.integers(1, 25), st.integers(0, 99))
@settings(max_examples=80)
def test_a_changed_byte_of_a_vector_is_named_and_its_image_never_found(
    at: int, bits: int, k: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        target = Index.create(Path(folder) / "index", ENGINE, folder)
        add(target, 0, *NAMES)
        file = target.path / "vectors-1.f32"
        write_at(file, at, bytes([file.read_bytes()[at] ^ bits]))
        name = NAMES[at // (4 * D)]
        named = (
            rf"vectors-1\.f32: row {at // (4 * D)}, of the image {re.escape(name)}, is damaged; .*index check"
        )
        with pytest.raises(StoreError, match=named):
            target.get([name])
        with pytest.raises(StoreError, match=rf"f32: 1 of 20 images are damaged, first {re.escape(name)}"):
            check_index(target)
        query = np.random.default_rng(seed).normal(size=(1, D)).astype(np.float32)
        results, error = attempt(lambda: target.search(query, k))
        if results is None:
            assert re.search(named, error)
        else:
            (hits,) = results
            assert k < 20 and len(hits) == k and name not in dict(hits)
            sound = {n: v for n, v in zip(NAMES, units(0, 20).astype(float), strict=True) if n != name}
            products = {n: math.fsum(v * query[0].astype(float)) for n, v in sound.items()}
            assert [n for n, _ in hits] == sorted(products, key=lambda n: (-products[n], n))[:k]
        # Without it, and with it anew, the index is whole.
        target.delete([name])
        assert check_index(target).images == 19
        target.search(query, k)
        add(target, 0, *NAMES)
        assert check_index(target).images == 20


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("chunk", [4 * D * 3, scan.CHUNK])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 1e3, 0.0])
def test_rows_that_are_not_finite_or_not_unit_never_rank(
    made: Index, value: float, chunk: int, consistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK", chunk)
    add(made, 0, *NAMES)
    expected = made.search(units(5, 3), 20)
    set_row(made, 4, np.full(D, value), consistent=consistent)
    named = r"row 4, of the image 04\.png, is damaged"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for queries, k in ((units(5, 3), 2), (units(6, 1), 1), (-units(5, 3), 2), (units(5, 3), 20)):
            results, error = attempt(lambda q=queries, k=k: made.search(q, k))  # type: ignore[misc]
            if results is None:
                assert re.search(named, error)
            else:
                assert not math.isnan(value) and k < 20
                assert all(len(hits) == k and "04.png" not in dict(hits) for hits in results)
        with pytest.raises(StoreError, match=r"1 of 20 images are damaged, first 04\.png \(row 4\)"):
            check_index(made)
        # Others are found as they were.
        for hits, before in zip(made.search(units(5, 3), 20, exclude=["04.png"]), expected, strict=True):
            assert hits == [hit for hit in before if hit[0] != "04.png"]


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=150)
def test_a_changed_byte_of_the_database_is_an_error_or_changes_nothing_that_a_check_passes(
    at: int, bits: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Index.create(Path(folder) / "index", ENGINE, folder)
        add(target, 0, *NAMES)
        target.delete(NAMES[:3])
        path = target.path / DATABASE
        before = target.entries(), target.get([e.id for e in target.entries()])[1].tobytes()
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= bits
        path.write_bytes(data)
        passed = []
        for use in (
            lambda: check_index(Index(target.path)),
            lambda: (target.entries(), target.get([e.id for e in target.entries()])[1].tobytes()),
            lambda: target.search(units(1, 2), 5),
            lambda: target.labels(),
            lambda: target.ids_below(folder),
            lambda: add(Index(target.path), 3, "new"),
        ):
            result, error = attempt(use)
            assert "\n" not in error
            passed.append(result)
        if passed[0] is not None:
            assert passed[1] == before


def test_a_check_finds_counts_that_are_wrong(made: Index) -> None:
    add(made, 0, *NAMES)
    made.delete(NAMES[:3])
    for statement in (
        "UPDATE images SET dead = NULL WHERE row = 1",
        "DELETE FROM images WHERE row = 7",
        "UPDATE images SET dead = 9 WHERE row = 1",
    ):
        data = (made.path / DATABASE).read_bytes()
        with closing(sqlite3.connect(made.path / DATABASE)) as connection, connection:
            connection.execute(statement)
        with pytest.raises(StoreError, match=r"index\.sqlite: is damaged \(its rows are not the 20"):
            check_index(made)
        (made.path / DATABASE).write_bytes(data)
    assert check_index(made).images == 17 and header(made.path).deaths == 3
