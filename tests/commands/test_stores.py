"""``simmap`` on indexes of servers, and on names that are none."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import Postgres, Server

from common import ARTIFACTS, MODEL, Simmap, failed, report
from simmap.engine import open_index
from simmap.engine.index.store import Recall

AVG = ARTIFACTS / "avg.onnx"


@pytest.fixture(params=["postgres", "milvus"])
def server(request: pytest.FixtureRequest) -> Server:
    """A real one."""
    found: Server = request.getfixturevalue(request.param)
    return found


def without_paths(answer: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on where an index is."""
    return {key: value for key, value in answer.items() if key not in ("index", "bytes", "paths")}


def test_the_commands_give_on_a_server_what_they_give_on_a_folder(
    simmap: Simmap, folder: Path, server: Server
) -> None:
    there = server.url("commands")
    query, region = "photos/box/box_in_scene.png", ["--region", "100,165,180,130"]
    for name in ("ix", there):
        assert report(simmap("index", "build", "photos", "-o", name, "--json"))["added"] == 7
        assert report(simmap("index", "build", "photos", "-o", name, "--json"))["kept"] == 7
    for arguments in (
        [query, "-k", "4"],
        [query, "-k", "20", "--exclude-self", *region],
        [query, "--per-class", "--compare-whole", *region],
    ):
        own, other = (report(simmap("search", name, *arguments, "--json")) for name in ("ix", there))
        assert own == other
    own, other = (report(simmap("index", "info", name, "--json")) for name in ("ix", there))
    assert without_paths(own) == without_paths(other) and sorted(own["paths"]) == sorted(other["paths"])
    assert other["index"] == there and other["bytes"] > 0
    assert "1280 features" in simmap("index", "info", there).stdout
    for name in ("ix", there):
        arguments = ["class", "--index", name, "--label", "box", "--rest", "-o", "c.png", "--force", "--json"]
        assert report(simmap(*arguments))["class"] == "box"
        # An image of the index is no output.
        failed(simmap("search", name, query, "-o", query, "--force"), "is an input")
        failed(
            simmap("search", name, query, "-o", "photos/box/box.png", "--force"), "is an image of the index"
        )
        assert report(simmap("index", "remove", name, "photos/box", "--yes", "--json"))["removed"] == 2
        assert report(simmap("index", "add", name, query, "--label", "new", "--json"))["images"] == 6
        checked = report(simmap("index", "check", name, "--recall", "--json"))
        assert checked["images"] == 6 and checked["recall"] == {
            "approximate": None, "whole": 1, "region": 1, "queries": 6, "images": 6,
        }  # fmt: skip
        assert ", of a region of each 1.0000; exact" in simmap("index", "check", name, "--recall").stdout
    failed(simmap("search", there, query, "--model", AVG), f"{there}: was built by another model")
    failed(simmap("search", there + "_none", query), "is no index; make one with")
    copied = report(simmap("index", "copy", there, "back", "--json"))
    assert (copied["images"], copied["copied"], copied["kept"]) == (6, 6, 0)
    assert simmap("index", "copy", there, "back").stdout == "back: 0 copied, 6 kept, all compared\n"


def test_a_contrast_is_the_same_on_a_server_on_a_folder_and_without_an_index(
    simmap: Simmap, folder: Path, server: Server
) -> None:
    query, both = "photos/box/box_in_scene.png", ("--model", MODEL, "--model", AVG)
    for model, name in ((MODEL, "whole"), (AVG, "avg")):
        for index in (name, server.url(f"contrast_{name}")):
            report(simmap("index", "build", "photos", "-o", index, "--model", model, "--json"))

    def rows(*arguments: object) -> Any:
        done = report(simmap("contrast", query, *arguments, "-k", "3", "-o", "c.png", "--force", "--json"))
        assert len(done["rows"]) == 2
        return [{k: v for k, v in row.items() if k != "recall_at_1"} for row in done["rows"]]

    own, there = ("whole", "avg"), (server.url("contrast_whole"), server.url("contrast_avg"))
    expected = rows(*both, "--index-folder", folder)
    for names in (own, there, (own[0], there[1])):
        # The models are those that made the indexes.
        assert rows("--index", names[0], "--index", names[1]) == expected
    assert rows("--index", there[0], "--index", own[1], *both) == expected
    moved = rows("--index", there[0], "--index", there[1], "--influence")
    assert moved == rows(*both, "--index-folder", folder, "--influence") != expected
    done = simmap("contrast", query, "--index", there[1], "--index", own[0], *both, "-o", "x.png")
    failed(done, f"{there[1]}: was built by another model")
    done = simmap("contrast", query, "--index", there[0], "-o", "photos/box/box.png", "--force")
    failed(done, "is an image of the index")
    (folder / "box" / "box.png").unlink()
    done = simmap("contrast", query, "--index", there[0], "-k", "20", "-o", "x.png")
    failed(done, f"{there[0]}: {folder}/box/box.png: there is no such file")
    assert report(simmap("index", "remove", there[0], "photos", "--yes", "--json"))["images"] == 0
    done = simmap("contrast", query, "--index", there[0], "-o", "x.png")
    failed(done, f"{there[0]}: has no image beside the query")


def test_an_approximate_index_says_what_it_misses(simmap: Simmap, folder: Path, postgres: Postgres) -> None:
    there = postgres.url("coarse")
    assert report(simmap("index", "build", "photos", "-o", there, "--model", AVG, "--json"))["added"] == 7
    postgres.execute("CREATE INDEX ON coarse USING hnsw ((vector::halfvec(8)) halfvec_cosine_ops)")
    query = ["photos/fruits.jpg", "--region", "0,0,100,100", "--json"]
    unmeasured = "has an approximate index (CREATE INDEX coarse_vector_idx"
    failed(simmap("search", there, *query), unmeasured)
    failed(simmap("contrast", query[0], "--index", there, "-o", "c.png"), unmeasured)
    measured = report(simmap("index", "check", there, "--recall", "--json"))["recall"]
    assert (measured["whole"], measured["region"], measured["queries"]) == (1, 1, 7)
    assert "halfvec" in measured["approximate"]
    found = report(simmap("search", there, *query))["results"]
    open_index(there).record_recall(Recall(0.995, 0.5, 7, 7))
    done = simmap("search", there, *query)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == found
    warning = (
        f"simmap: {there} is searched approximately; it finds 0.995 of the 10 best images and 0.500 of those "
        "by region\n"
    )
    assert done.stderr == warning
    assert simmap("contrast", query[0], "--index", there, "-o", "c.png").stderr == warning
    # Without the index everything is looked at again, and with another one nothing is known.
    postgres.execute("DROP INDEX coarse_vector_idx")
    assert report(simmap("search", there, *query))["results"] == found
    postgres.execute("CREATE INDEX ON coarse USING ivfflat (vector vector_l2_ops) WITH (lists = 1)")
    failed(simmap("search", there, *query), "whose recall is unknown")
    report(simmap("index", "check", there, "--recall", "--json"))
    assert report(simmap("search", there, *query))["results"] == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mysql://host/db", "mysql://: is no kind of index; give a folder, milvus://HOST"),
        ("postgresql://127.0.0.1:1/db", "postgresql://127.0.0.1:1/db: names no table; add ?table=NAME"),
        (
            "postgresql://u:secret@127.0.0.1:1/db?table=t",
            "postgresql://u@127.0.0.1:1/db?table=t: the server cannot",
        ),
        ("milvus://127.0.0.1:1", "milvus://127.0.0.1:1: must be milvus://HOST:PORT/COLLECTION"),
        (
            "milvus://u:secret@127.0.0.1:1/photos",
            "milvus://u@127.0.0.1:1/photos: the server cannot be reached",
        ),
        ("milvus://127.0.0.1:x/photos", "milvus://127.0.0.1:x/photos: is no URL"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_password(simmap: Simmap, name: str, message: str) -> None:
    pytest.importorskip("pymilvus" if name.startswith("milvus") else "psycopg")
    done = simmap("index", "info", name)
    failed(done, message)
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("milvus://h:1/photos", "pymilvus", "milvus"),
        ("postgresql://u:secret@h/d?table=t", "psycopg", "postgres"),
    ],
)
def test_a_missing_package_is_named(
    simmap: Simmap, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = simmap("index", "info", name)
    failed(done, f"needs the package {module}; install it with: pip install 'simmap[{extra}]'")
    assert "secret" not in done.stderr


def test_nested_folders_give_the_label_that_is_asked_for(simmap: Simmap, folder: Path) -> None:
    (folder / "box" / "inner").mkdir()
    (folder / "box" / "box.png").rename(folder / "box" / "inner" / "box.png")
    labels = {}
    for level in ("first", "last", "path"):
        arguments = [
            "index",
            "build",
            "photos",
            "-o",
            level,
            "--label-level",
            level,
            "--model",
            AVG,
            "--json",
        ]
        report(simmap(*arguments))
        labels[level] = report(simmap("index", "info", level, "--json"))["labels"]
    plain = {"aerial": 2, "buddha": 2}
    assert labels["first"] == {**plain, "box": 2}
    assert labels["last"] == {**plain, "box": 1, "inner": 1}
    assert labels["path"] == {**plain, "box": 1, "box/inner": 1}
    # Another level is another label, not another embedding.
    done = report(simmap("index", "build", "photos", "-o", "last", "--model", AVG, "--json"))
    assert (
        done["added"] == 0 and report(simmap("index", "info", "last", "--json"))["labels"] == labels["first"]
    )
    report(simmap("index", "add", "last", "photos/box", "--label-level", "last", "--model", AVG, "--json"))
    assert report(simmap("index", "info", "last", "--json"))["labels"] == {**plain, "inner": 1}
    (folder / "labels.csv").write_text("path,label\nfruits.jpg,food\n")
    arguments = [
        "index",
        "build",
        "photos",
        "-o",
        "iy",
        "--labels",
        "photos/labels.csv",
        "--label-level",
        "last",
    ]
    failed(simmap(*arguments), "--label-level is for labels from folders", code=2)
