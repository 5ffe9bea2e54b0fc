"""The index against kills, other processes and threads."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_common import ENGINE, D, Run, add, content, entry, files, header, states, units, vectors_of

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.errors import StoreError
from simmap.engine.index import database, embedded
from simmap.engine.index.check import check_index
from simmap.engine.index.database import DATABASE, writing
from simmap.engine.index.embedded import Index


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


def test_a_kill_during_a_compaction_leaves_all_that_counts(made: Index, run: Run) -> None:
    names = [f"{n:05d}" for n in range(3000)]
    add(made, 0, *names)
    gone = names[: 2 + len(names) // 3 * 2]
    before = content(made)
    after = {name: before[name] for name in names[len(gone) :]}
    start, seen = files(made.path), set()
    job = {"do": "write", "with": [str(made.path), [["upsert", [], [[0] * D][:0]], ["delete", gone]]]}

    def restore() -> None:
        shutil.rmtree(made.path)
        made.path.mkdir()
        for name, data in start.items():
            (made.path / name).write_bytes(data)

    started = time.monotonic()
    assert run([job]) == [["0", "1"]] and header(made.path).generation == 2
    rng, longest = np.random.default_rng(0), 1.3 * (time.monotonic() - started)
    for _ in range(200):
        restore()
        (lines,) = run([{**job, "after": 1, "delay": float(rng.uniform(0, longest))}])
        copies = len(list(made.path.glob("*.f32")))
        again = Index(made.path)
        held = content(again)
        assert held == after or (held == before and lines == ["0"])
        seen.add((held == after, header(made.path).generation, copies))
        check_index(again)
        add(again, 1, "next")
        assert content(Index(made.path)).keys() == held.keys() | {"next"}
        assert len(list(made.path.iterdir())) == 2
        # Kills before the deletion, after it with a part of the copy, and after the compaction.
        if {(False, 1, 1), (True, 1, 2), (True, 2, 1)} <= seen:
            break
        longest *= 1.05 if (True, 2, 1) not in seen else 1
    assert {(False, 1, 1), (True, 1, 2), (True, 2, 1)} <= seen


def test_a_check_during_writes_finds_no_damage(made: Index, run: Run) -> None:
    jobs = [{"do": "write", "with": [str(made.path), operations(seed, 60)]} for seed in (100, 200)]
    *lines, checked = run([*jobs, {"do": "check", "with": [str(made.path), 1.0]}])
    assert lines == [[str(n) for n in range(60)]] * 2
    assert len(checked) == 1 and int(checked[0]) > 3
    check_index(made)


def test_a_check_that_is_killed_leaves_the_index_as_it_was(made: Index, run: Run) -> None:
    add(made, 0, *(f"{n:05d}" for n in range(5000)))
    before = files(made.path)
    for delay in (0.0, 0.01, 0.03):
        job = {"do": "check", "with": [str(made.path), 9.0], "after": 0, "delay": delay}
        assert run([job]) == [[]]
        assert files(made.path) == before
        add(Index(made.path), 1, "00000")
        before = files(made.path)


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


def test_a_search_never_fails_for_images_that_another_process_removes(made: Index, run: Run) -> None:
    names = [f"{n:03d}" for n in range(200)]
    add(made, 0, *names)
    steps: list[list[Any]] = []
    for n in range(60):
        steps += [
            ["delete", names[n % 2 :: 2]],
            ["upsert", [list(entry(x)) for x in names], units(n, 200).tolist()],
        ]
    write = {"do": "write", "with": [str(made.path), steps]}
    done, found = run([write, {"do": "find", "with": [str(made.path), 2.0]}])
    assert done == [str(n) for n in range(120)] and len(found) == 1 and int(found[0]) > 10


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


def test_readers_go_on_while_a_write_takes_its_time_and_then_see_it(made: Index) -> None:
    add(made, 0, "a", "b")
    with writing(made.path) as database:
        started = time.monotonic()
        assert len(made) == 2 and len(made.search(np.ones((1, D)), 5)[0]) == 2
        assert made.get(["a"])[0] == [entry("a")] and check_index(made).images == 2
        assert time.monotonic() - started < 1
        database.bury([0])
    assert [name for name, _ in made.search(np.ones((1, D)), 5)[0]] == ["b"]


def test_an_index_that_stays_locked_is_named(made: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT", 0.2)
    add(made, 0, "a")
    with closing(sqlite3.connect(made.path / DATABASE, isolation_level=None)) as connection:
        for lock, uses in {
            "EXCLUSIVE": (lambda: len(made), lambda: add(made, 1, "b"), lambda: Index(made.path)),
            "IMMEDIATE": (lambda: add(made, 1, "b"), lambda: made.delete(["a"])),
        }.items():
            connection.execute(f"BEGIN {lock}")
            for use in uses:
                with pytest.raises(StoreError, match=r"index: another program has kept it locked for 0 s"):
                    use()
            connection.execute("ROLLBACK")
    add(made, 1, "b")
    assert len(made) == 2


def test_a_file_that_cannot_be_removed_hinders_no_write(made: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Windows keeps the vectors of the generation before while a reader maps them.
    monkeypatch.setattr(embedded, "COMPACT_ROWS", 3)
    (made.path / "vectors-9.f32").mkdir()
    add(made, 0, *"abcdefghij")
    before = content(made)
    made.delete("abcdefg")
    assert header(made.path).generation == 2
    assert content(Index(made.path)) == {name: before[name] for name in "hij"}
    assert {p.name for p in made.path.iterdir()} == {DATABASE, "vectors-2.f32", "vectors-9.f32"}


def test_a_thousand_openings_leave_no_file_open(made: Index) -> None:
    add(made, 0, "a", "b")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(1000):
        opened = Index(made.path)
        opened.search(np.ones((1, D)), 1)
        if n % 100 == 0:
            add(opened, n, "c")
    del opened
    assert (
        len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    )  # that of `made`, which maps its vectors once


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
