"""What an index says of its images: any name, label, size and date that a file system allows."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_common import ENGINE, D, add, content, entry, units

from simmap.engine.dataset import find_images
from simmap.engine.errors import StoreError
from simmap.engine.index.check import check_index
from simmap.engine.index.database import writing
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry
from simmap.engine.index.update import update_index

TEXT = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)
ENTRIES = st.builds(
    Entry,
    TEXT,
    st.none() | TEXT,
    st.integers(1, 2**31),
    st.integers(1, 2**31),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63) * 10**9, 2**63 * 10**9),
)


@given(entries=st.lists(ENTRIES, max_size=6, unique_by=lambda e: e.id))
@settings(max_examples=60)
def test_every_entry_reads_back_as_it_was_written(
    entries: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("entries")
    target = Index.create(folder / "index", ENGINE, folder)
    target.upsert(entries, units(0, len(entries)))
    for again in (target, Index(target.path)):
        assert again.entries() == entries
        assert again.get([e.id for e in entries])[0] == entries
        labels = [e.label for e in entries]
        assert again.labels() == {label: labels.count(label) for label in labels}
        for label in {label for label in labels if label is not None}:
            assert again.entries(label) == [e for e in entries if e.label == label]
        # Copies of one vector rank by id, in the order of Python's strings.
        again.upsert(entries, np.repeat(units(1, 1), len(entries), axis=0))
        ranked = [name for name, _ in again.search(units(1, 1), 9)[0]]
        assert ranked == sorted(e.id for e in entries)
        assert check_index(again).images == len(entries)
        again.upsert(entries, units(0, len(entries)))


@pytest.mark.parametrize("seconds", [-(2**31), 0, 9223372036, 9223372037, 10**10, 15032385535])
def test_a_file_of_any_date_is_indexed_and_found_unchanged(tmp_path: Path, seconds: int) -> None:
    source = Path(__file__).parents[2] / "photos" / "fruits.jpg"
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(source.read_bytes())
    try:
        os.utime(photo, ns=(0, seconds * 10**9 + 7))
    except (OSError, OverflowError):
        pytest.skip("the file system has no such date")
    for added in (1, 0):
        target = Index.create(tmp_path / "index", ENGINE, photo.parent)
        done = update_index(target, ENGINE, find_images(photo.parent), prune=True)
        assert (done.added, done.kept, done.skipped) == (added, 1 - added, ())
        assert target.entries()[0].mtime_ns == photo.stat().st_mtime_ns
        assert check_index(Index(target.path)).images == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos/box", ["box/1.png", "box/deep/2.png"]),
        ("photos/box/", ["box/1.png", "box/deep/2.png"]),
        ("photos/box/1.png", ["box/1.png"]),
        ("photos/bo", []),
        ("photos/none", []),
        ("photos", ["box.png", "box/1.png", "box/deep/2.png", "box0.png", "boxes/3.png", "\udcff/4.png"]),
        ("more", ["{}/more/5.png"]),
        (
            "",
            [
                "box.png",
                "box/1.png",
                "box/deep/2.png",
                "box0.png",
                "boxes/3.png",
                "\udcff/4.png",
                "{}/more/5.png",
            ],
        ),
    ],
)
def test_ids_below_are_those_of_a_file_or_folder(tmp_path: Path, path: str, expected: list[str]) -> None:
    target = Index.create(tmp_path / "index", ENGINE, tmp_path / "photos")
    elsewhere = f"{tmp_path}/more/5.png"
    names = ["box/1.png", "boxes/3.png", "box.png", "box/deep/2.png", "box0.png", "\udcff/4.png", "gone"]
    add(target, 0, *names, elsewhere)
    target.delete(["gone"])
    assert target.ids_below(tmp_path / path) == [name.format(tmp_path) for name in expected]
    assert target.ids_below("/") == target.ids_below(tmp_path)
    with pytest.raises(StoreError, match="an empty path names no image"):
        target.ids_below("")


def test_opening_reads_no_rows(tmp_path: Path) -> None:
    target = Index.create(tmp_path / "index", ENGINE, tmp_path)
    add(target, 0, "a")
    rows = 300_000
    with writing(target.path) as database:
        database.add([entry(str(n)) for n in range(1, rows)], [0] * (rows - 1))
    with (target.path / "vectors-1.f32").open("r+b") as stream:
        stream.truncate(4 * D * rows)
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        opened = Index(target.path)
        assert len(opened) == rows
        assert opened.get(["a"])[0] == [entry("a")]
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.02
    assert [name for name, _ in opened.search(opened.get(["a"])[1], 1)[0]] == ["a"]
    assert content(Index.create(tmp_path / "other", ENGINE, tmp_path)) == {}
