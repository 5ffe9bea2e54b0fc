"""Folders of images, label files and pairs of images, from real files."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.dataset import Item, find_images, read_pairs, sample_pairs
from simmap.engine.errors import ConfigError, ImageError
from simmap.engine.images.decode import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images by name only: finding them does not open them."""
    root = tmp_path / "photos"
    visible = ("cat/2.jpg", "cat/1.JPEG", "dog/deep/down/3.png", "top.webp")
    for name in (*visible, "cat/notes.txt", ".hidden/4.jpg", "dog/.5.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_images_are_sorted_and_labelled_by_their_sub_folder(folder: Path) -> None:
    assert find_images(folder) == [
        Item(str(folder / "cat/1.JPEG"), "cat"),
        Item(str(folder / "cat/2.jpg"), "cat"),
        Item(str(folder / "dog/deep/down/3.png"), "dog"),
        Item(str(folder / "top.webp"), None),
    ]


def test_links_to_folders_are_followed_but_never_in_a_circle(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "6.jpg").write_bytes(b"")
    (folder / "bird").symlink_to(other)
    (other / "back").symlink_to(folder)
    assert [item.label for item in find_images(folder)] == ["bird", "cat", "cat", "dog", None]


def test_a_label_file_wins_over_sub_folders(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    # As a spreadsheet writes it: a byte order mark, another column, CRLF.
    labels.write_bytes(
        '\ufeffpath,size,label\r\ncat/1.JPEG,3,"lynx, red"\r\ntop.webp,4,sky\r\ncat/2.jpg,1,\r\n'.encode()
    )
    assert [item.label for item in find_images(folder, labels)] == ["lynx, red", None, None, "sky"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"path;label\n", "lacks the column 'path'; its first line must name path,label"),
        (b"", "lacks the column 'path'"),
        (b"path,label\nno.jpg,cat\n", "line 2 names no.jpg, which is no image in"),
        (b"path,label\ncat/2.jpg\n", "line 2 has too few columns"),
        (b"path,label\n\xff\xfe\n", "cannot be read as CSV"),
        (None, "no such file"),
    ],
)
def test_a_bad_label_file_is_named(folder: Path, tmp_path: Path, text: bytes | None, told: str) -> None:
    labels = tmp_path / "labels.csv"
    if text is not None:
        labels.write_bytes(text)
    with pytest.raises(ConfigError, match=told) as caught:
        find_images(folder, labels)
    assert "labels.csv" in str(caught.value)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images"):
        find_images(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        find_images(tmp_path / "none")


def test_a_link_to_itself_is_no_folder_and_a_pipe_is_found_but_not_opened(folder: Path) -> None:
    (folder / "round").symlink_to(folder / "round")
    (folder / "round.jpg").symlink_to(folder / "round.jpg")
    (folder / "gone.jpg").symlink_to(folder / "none.jpg")
    os.mkfifo(folder / "pipe.jpg")
    names = {Path(item.path).name for item in find_images(folder)}
    assert names == {"1.JPEG", "2.jpg", "3.png", "top.webp", "round.jpg", "gone.jpg", "pipe.jpg"}
    for name in ("round.jpg", "gone.jpg", "pipe.jpg"):
        with pytest.raises(ImageError, match=name):
            load(folder / name)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder for a user to whom permissions matter, which this process then is."""
    superuser = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for below in ("a/1.jpg", "locked/2.jpg", "locked/deep/3.jpg", "z/4.jpg"):
            (root / below).parent.mkdir(parents=True, exist_ok=True)
            (root / below).touch()
        (root / "locked").chmod(0)
        if superuser:
            os.seteuid(65534)
        try:
            yield root
        finally:
            if superuser:
                os.seteuid(0)
            (root / "locked").chmod(0o755)


def test_a_folder_that_may_not_be_read_is_reported_and_left_out(unprivileged: Path) -> None:
    errors: list[tuple[str, str]] = []
    items = find_images(unprivileged, on_error=lambda path, error: errors.append((path, str(error))))
    assert [item.label for item in items] == ["a", "z"]
    locked = str(unprivileged / "locked")
    assert errors == [
        (locked, f"{locked}: cannot be read (Permission denied); give this user the permission to read it")
    ]
    with pytest.raises(ConfigError, match="locked: cannot be read"):
        find_images(unprivileged)
    with pytest.raises(ConfigError, match="locked: cannot be read"):
        find_images(unprivileged / "locked", on_error=lambda path, error: errors.append((path, str(error))))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xe9t\xe9"
    os.mkdir(folder)  # noqa: PTH102
    with open(folder + b"/\xff.jpg", "wb"):  # noqa: PTH123
        pass
    (item,) = find_images(tmp_path)
    assert os.fsencode(item.path) == folder + b"/\xff.jpg"
    assert item.label is not None and os.fsencode(item.label) == b"\xe9t\xe9"
    (item,) = find_images(os.fsdecode(folder))
    with pytest.raises(ImageError, match="is empty") as caught:
        load(item.path)
    assert str(caught.value).encode()  # printable on any terminal


def test_pairs_are_relative_to_their_file(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"a,b\nx.jpg,sub/y.jpg\n{tmp_path / 'z.jpg'},x.jpg\n")
    x, y, z = (str(tmp_path / name) for name in ("x.jpg", "sub/y.jpg", "z.jpg"))
    assert read_pairs(table) == [(x, y), (z, x)]
    table.write_text("a,b\n")
    with pytest.raises(ConfigError, match=r"pairs\.csv: has no pairs"):
        read_pairs(table)


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=12),
    count=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_sampled_pairs_are_different_pairs_of_one_class(
    labels: list[str | None], count: int, seed: int
) -> None:
    items = [Item(f"{i:02d}.jpg", label) for i, label in enumerate(labels)]
    every = {(a.path, b.path) for a, b in combinations(items, 2) if a.label == b.label is not None}
    if not every:
        with pytest.raises(ConfigError, match="no class has two images"):
            sample_pairs(items, count, seed=seed)
        return
    found = sample_pairs(items, count, seed=seed)
    assert len(found) == len(set(found)) == min(count, len(every))
    assert set(found) <= every
    assert found == sample_pairs(items, count, seed=seed)


def test_every_pair_is_as_likely() -> None:
    items = [Item(f"{i}", "ab"[i % 2]) for i in range(7)]  # 6 pairs of a, 3 of b
    counts = Counter(pair for seed in range(3000) for pair in sample_pairs(items, 3, seed=seed))
    assert len(counts) == 9
    assert all(850 < count < 1150 for count in counts.values()), counts
