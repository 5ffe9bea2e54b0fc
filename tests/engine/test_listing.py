"""What an index is built from: folders, globs, lists and URLs."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote
from uuid import uuid4

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, Simmap, failed, report
from simmap.engine.dataset import Item
from simmap.engine.errors import ConfigError, ImageError, StorageError
from simmap.engine.images.decode import load
from simmap.engine.index.embedded import Index
from simmap.engine.listing import list_source, names_one
from simmap.engine.urls import url_status

AVG = ARTIFACTS / "avg.onnx"
NAMES = ("cat/1.jpg", "cat/deep/2.JPG", "dog/3.png", "dog/[x].png", "top.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of noise in nested folders, a hidden one and a text."""
    rng = np.random.default_rng(0)
    root = tmp_path / "cwd" / "photos"
    for name in (*NAMES, "dog/.hidden.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _, data = cv2.imencode(name[-4:].lower(), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        (root / name).write_bytes(data.tobytes())
    (root / "cat" / "notes.txt").write_text("no image")
    return root


@contextmanager
def in_memory(folder: Path) -> Iterator[str]:
    """The same files in fsspec's memory, and the URL of their folder."""
    fsspec = pytest.importorskip("fsspec")
    files, bucket = fsspec.filesystem("memory"), f"bucket{uuid4().hex}"
    for path in folder.rglob("*.*"):
        files.pipe(f"/{bucket}/photos/{path.relative_to(folder)}", path.read_bytes())
    yield f"memory://{bucket}/photos"
    files.rm(f"/{bucket}", recursive=True)


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The URL of the photos in memory."""
    with in_memory(folder) as url:
        yield url


class Handler(SimpleHTTPRequestHandler):
    """Serves files, but for those that are away."""

    away: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        if self.path in self.away:
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The URL of the photos on a web server."""
    pytest.importorskip("aiohttp", reason="fsspec reads http:// by aiohttp")
    Handler.away.clear()
    handler = functools.partial(Handler, directory=folder.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/photos"
        server.shutdown()


def names(items: list[Item], root: str) -> list[tuple[str, str | None]]:
    assert all(item.path.startswith(f"{root}/") for item in items)
    return [(item.path[len(root) + 1 :], item.label) for item in items]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.jpg", ["cat/1.jpg", "top.jpg"]),
        ("**", list(NAMES)),
        ("*/*.png", ["dog/3.png", "dog/[x].png"]),
        ("cat/**/?.[jJ]*", ["1.jpg", "deep/2.JPG"]),
        ("dog/[!3]*", ["[x].png"]),
        ("*.jpg", ["top.jpg"]),
        ("dog/*", ["3.png", "[x].png"]),
    ],
)
def test_a_glob_means_the_same_on_disk_and_behind_a_url(
    folder: Path, bucket: str, pattern: str, found: list[str]
) -> None:
    for root in (str(folder), bucket):
        listing = list_source(f"{root}/{pattern}")
        assert [name for name, _ in names(listing.items, listing.root)] == found
        assert listing.root == root + {"c": "/cat", "d": "/dog"}.get(pattern[0], "")


def test_labels_of_a_glob_are_folders_below_its_root_or_come_from_a_file(
    folder: Path, bucket: str, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\ncat/1.jpg,lynx\n")
    for root in (str(folder), bucket):
        assert [item.label for item in list_source(f"{root}/**/*.jpg").items] == ["cat", None]
        assert [item.label for item in list_source(f"{root}/**/*.jpg", labels).items] == ["lynx", None]
        assert [item.label for item in list_source(root, label_level="path").items][1] == "cat/deep"


def test_a_relative_glob_starts_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    listing = list_source("*.jpg")
    assert (listing.root, [item.path for item in listing.items]) == (".", ["top.jpg"])
    # A name that is there means itself, wildcards or not.
    assert names_one("dog/[x].png") and not names_one("dog/[y].png")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_names_files_beside_it_and_urls(folder: Path, bucket: str, kind: str) -> None:
    rows = [("photos/top.jpg", "sky"), (str(folder / "dog/3.png"), None), (f"{bucket}/cat/1.jpg", "cat")]
    path = folder.parent / f"list.{kind}"
    if kind == "csv":
        path.write_text("".join(f"{name},{label or ''}\n" for name, label in [("path", "label"), *rows]))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pyarrow.table({"n": [1, 2, 3], "path": [r[0] for r in rows], "label": [r[1] for r in rows]})
        parquet.write_table(table, path)
    listing = list_source(str(path))
    assert listing.root == str(folder.parent)
    assert [(item.path, item.label) for item in listing.items] == [
        (str(folder / "top.jpg"), "sky"),
        (str(folder / "dog/3.png"), None),
        (f"{bucket}/cat/1.jpg", "cat"),
    ]
    assert listing.items[2].status == url_status(f"{bucket}/cat/1.jpg")
    # The same list behind a URL: its names are relative to it there.
    fsspec = pytest.importorskip("fsspec")
    above = bucket.rpartition("/")[0]
    fsspec.filesystem("memory").pipe(f"{above}/list.{kind}".removeprefix("memory:/"), path.read_bytes())
    remote = list_source(f"{above}/list.{kind}")
    assert remote.items[0].path == f"{bucket}/top.jpg" and remote.root == above


def test_a_list_needs_no_labels(folder: Path) -> None:
    (folder / "list.csv").write_text("path\ntop.jpg\n")
    assert list_source(str(folder / "list.csv")).items == [Item(str(folder / "top.jpg"))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name\na.jpg\n", "lacks the column 'path'"),
        ("path,label\n", "names no image"),
        ("path,label\n ,cat\n", "line 2 has an empty path"),
        ("path,label\na.jpg\n", "line 2 has too few columns"),
        ("path\n\xff\n", "cannot be read as CSV"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=told) as error:
        list_source(str(path))
    assert str(error.value).startswith(str(path))


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    for columns, told in (
        ({"name": ["a"]}, "lacks the column 'path'"),
        ({"path": ["a", None]}, "row 1 has no text in the column 'path'"),
        ({"path": [3]}, "row 0 has no text"),
        ({"path": ["a"], "label": [3]}, "row 0 has a label that is no text"),
        ({"path": pyarrow.array([], pyarrow.string())}, "names no image"),
    ):
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(ConfigError, match=told):
            list_source(str(path))
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigError, match=r"list\.parquet: cannot be read as Parquet"):
        list_source(str(path))


def test_sources_that_are_not_there_are_refused(folder: Path, bucket: str) -> None:
    for source, told in (
        (f"{folder}/*.gif", "matches no image"),
        (f"{folder}/nowhere/*.jpg", "is no folder of images"),
        (f"{folder}/none.csv", "no such file"),
        (f"{bucket}/none.csv", "no such file"),
        (f"{bucket}/none", "none: "),
        ("zip://a.jpg::memory://b.zip", "chains storages"),
        ("ftp://me:secret@host/photos", "holds a password"),
    ):
        with pytest.raises(ConfigError, match=told) as error:
            list_source(source)
        assert "secret" not in str(error.value)
    (folder / "list.csv").write_text("path\ntop.jpg\n")
    with pytest.raises(ConfigError, match="put the labels into its column"):
        list_source(str(folder / "list.csv"), folder / "list.csv")
    with pytest.raises(StorageError, match=r"nonsense://a: cannot be read \(Protocol not known"):
        list_source("nonsense://a")


def test_a_url_is_an_image(bucket: str, web: str, folder: Path) -> None:
    pixels = load(folder / "cat/1.jpg").pixels
    for root in (bucket, web, f"file://{folder}"):
        photo = load(f"{root}/cat/1.jpg")
        assert photo.name == f"{root}/cat/1.jpg" and (photo.pixels == pixels).all()
        with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file"):
            load(f"{root}/gone.jpg")
    with pytest.raises(StorageError, match="cannot be read"):
        load("http://127.0.0.1:1/a.jpg")


def test_an_index_of_a_url_is_as_one_of_the_folder(
    simmap: Simmap, folder: Path, bucket: str, web: str
) -> None:
    report(simmap("index", "build", "photos", "-o", "own", "--model", AVG, "--json"))
    own = Index(folder.parent / "own")
    for at, root in enumerate((bucket, f"{web}/", f"file://{folder}")):
        name, root = f"ix{at}", root.rstrip("/")
        done = report(simmap("index", "build", root, "-o", name, "--model", AVG, "--json"))
        assert (done["added"], done["skipped"]) == (5, [])
        assert report(simmap("index", "build", root, "-o", name, "--model", AVG, "--json"))["kept"] == 5
        remote = Index(folder.parent / name)
        assert remote.root == root and sorted(map(unquote, remote.ids())) == own.ids()
        assert remote.path_of("cat/1.jpg") == f"{root}/cat/1.jpg"
        assert remote.ids_below(f"{root}/cat") == ["cat/1.jpg", "cat/deep/2.JPG"]
        entries, vectors = remote.get(sorted(remote.ids(), key=unquote))
        there, expected = own.get(own.ids())
        assert vectors.tobytes() == expected.tobytes()
        assert [entry[1:5] for entry in entries] == [entry[1:5] for entry in there]
    # Its pictures are drawn from the storage.
    found = report(
        simmap("search", "ix0", "photos/dog/3.png", "-k", "1", "-o", "found.png", "--force", "--json")
    )
    assert found["results"][0]["path"] == f"{bucket}/dog/3.png"
    assert load(folder.parent / "found.png").pixels.size > 0
    report(simmap("index", "remove", "ix0", f"{bucket}/cat", "--yes", "--json"))
    assert Index(folder.parent / "ix0").ids() == ["dog/3.png", "dog/[x].png", "top.jpg"]


def test_an_index_follows_its_storage(simmap: Simmap, bucket: str) -> None:
    files = pytest.importorskip("fsspec").filesystem("memory")
    report(simmap("index", "build", bucket, "-o", "ix", "--model", AVG, "--json"))
    path = bucket.removeprefix("memory:/")
    files.pipe(f"{path}/top.jpg", files.cat(f"{path}/cat/1.jpg"))
    files.rm(f"{path}/dog/3.png")
    files.pipe(f"{path}/dog/bad.png", b"no image")
    done = simmap("index", "build", bucket, "-o", "ix", "--model", AVG)
    assert done.stdout == "ix: 1 added, 3 kept, 1 removed, 1 skipped; 4 images\n"
    assert done.stderr.startswith(f"simmap: skipped {bucket}/dog/bad.png: is not a JPEG")


def test_images_of_urls_join_an_index_of_a_folder(simmap: Simmap, folder: Path, bucket: str) -> None:
    report(simmap("index", "build", "photos/**/*.jpg", "-o", "ix", "--model", AVG, "--json"))
    add = ("index", "add", "ix", f"{bucket}/top.jpg", f"{bucket}/cat/*", "--label", "far")
    assert report(simmap(*add, "--json"))["images"] == 4
    index = Index(folder.parent / "ix")
    assert index.ids() == ["cat/1.jpg", f"{bucket}/cat/1.jpg", f"{bucket}/top.jpg", "top.jpg"]
    assert index.path_of(f"{bucket}/top.jpg") == f"{bucket}/top.jpg"
    assert (
        report(simmap("index", "build", "photos/**/*.jpg", "-o", "ix", "--model", AVG, "--json"))["images"]
        == 4
    )


def test_images_of_a_storage_that_is_away_stay_in_the_index(simmap: Simmap, folder: Path, web: str) -> None:
    report(simmap("index", "build", web, "-o", "ix", "--model", AVG, "--json"))
    (folder / "top.jpg").write_bytes((folder / "cat/1.jpg").read_bytes() + b" ")
    Handler.away.add("/photos/top.jpg")
    done = simmap("index", "build", web, "-o", "ix", "--model", AVG)
    assert done.stderr.startswith(f"simmap: skipped {web}/top.jpg: cannot be read (503")
    assert done.stdout == "ix: 0 added, 4 kept, 0 removed, 1 skipped; 5 images\n"
    Handler.away.clear()
    assert simmap("index", "build", web, "-o", "ix", "--model", AVG).stdout.startswith("ix: 1 added, 4 kept")


def test_failures_of_sources_are_one_line(simmap: Simmap, folder: Path) -> None:
    failed(simmap("index", "build", "photos/*.gif", "-o", "ix"), "photos/*.gif: matches no image")
    failed(simmap("index", "build", "nonsense://a", "-o", "ix"), "nonsense://a: cannot be read")
    os.makedirs(folder / "list.csv")  # noqa: PTH103
    failed(simmap("index", "build", "photos/list.csv", "-o", "ix"), "list.csv: has no images")
    (folder / "own.csv").write_text("path\ntop.jpg\n")
    arguments = ("index", "build", "photos/own.csv", "-o", "ix", "--label-level", "path")
    failed(simmap(*arguments), "--label-level is for labels from folders", code=2)
