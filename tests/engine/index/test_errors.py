"""The index against damage, foreign files and full disks."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_common import ENGINE, D, Run, add, content, entry, files, header, states, units

from common import ARTIFACTS
from simmap.engine import Engine, search_embeddings
from simmap.engine.errors import DecompositionError, StoreError
from simmap.engine.index import embedded
from simmap.engine.index.check import check_index
from simmap.engine.index.database import DATABASE, Header
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry, identity
from simmap.engine.index.update import update_index
from simmap.engine.options import Options


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


def header_with(**changes: int) -> Callable[[Path], None]:
    """A header that says something else, with the checksum of that."""

    def change(folder: Path) -> None:
        other = Header(**{**header(folder)._asdict(), **changes})
        assignments = ", ".join(f"{name} = {value}" for name, value in changes.items())
        sql(f"UPDATE header SET {assignments}, checksum = {other.checksum()}")(folder)

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
    *(
        (sql(f"UPDATE header SET {change}"), r"index\.sqlite: is damaged \(.*\); build the index anew")
        for change in (
            "rows = -3", "rows = 2", "rows = 'many'", "rows = 1e300", "dimension = NULL", "dimension = 9",
            "deaths = 4", "generation = 4", "root = 'text'", "root = x'ff'", "root = x'2f'", "model = 3",
            "token = NULL", "checksum = 1",
        )
    ),
    (header_with(rows=9), r"vectors-1\.f32: is damaged, it is shorter than its 9 rows"),
    (header_with(generation=4), r"vectors-4\.f32: is missing; build the index anew"),
    (header_with(deaths=4), r"index\.sqlite: is damaged \(.*invalid counts\)"),
    (header_with(dimension=0), r"index\.sqlite: is damaged \(.*invalid counts\)"),
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


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that its user may not write, and no rights to do so nevertheless."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        os.seteuid(os.getuid())
        folder.chmod(0o755)


def test_an_index_that_cannot_be_written_can_be_read(unprivileged: Path) -> None:
    target = Index.create(unprivileged / "index", ENGINE, unprivileged)
    add(target, 0, "a")
    for path in (target.path, *target.path.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        assert len(Index(target.path)) == 1 and content(target).keys() == {"a"}
        assert check_index(target).images == 1
        for use in (lambda: add(target, 1, "b"), lambda: target.delete(["a"])):
            with pytest.raises(StoreError, match=r"index: cannot be written: (Permission denied|.*readonly)"):
                use()
        with pytest.raises(StoreError, match="cannot be written: Permission denied"):
            Index.create(unprivileged / "other", ENGINE, unprivileged)
    finally:
        os.seteuid(os.getuid())
        target.path.chmod(0o755)


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


def test_an_image_that_is_neither_live_nor_dead_ends_a_search(made: Index) -> None:
    add(made, 0, "a", "b", "c")
    with closing(sqlite3.connect(made.path / DATABASE)) as connection:
        connection.execute("UPDATE images SET dead = 0 WHERE id = ?", (b"b",))
        connection.commit()
    with pytest.raises(
        StoreError, match="images that it does not have; see what is wrong with: simmap index check"
    ):
        search_embeddings(Index(made.path), units(0, 1), 3)


@pytest.mark.parametrize("column", ["height", "mtime_ns", "checksum"])
def test_infinity_in_the_database_is_damage(made: Index, column: str) -> None:
    add(made, 0, "a")
    with closing(sqlite3.connect(made.path / DATABASE)) as connection:
        connection.execute(f"UPDATE images SET {column} = ?", (float("inf"),))
        connection.commit()
    with pytest.raises(StoreError, match="is damaged"):
        made.entries()


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_the_index_does_not_have_is_damage(made: Index, row: int) -> None:
    add(made, 0, "a", "b")
    sql(f"UPDATE images SET row = {row} WHERE id = x'62'")(made.path)
    with pytest.raises(StoreError, match=f"is damaged .*there is a row {row} of 2"):
        made.entries()
