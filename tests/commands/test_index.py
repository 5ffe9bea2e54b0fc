"""``simmap index``, and how the commands on folders and indexes fail."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, SAMPLES, Simmap, failed, report
from simmap.engine import Index

AVG = ARTIFACTS / "avg.onnx"


def test_build_add_remove_and_info_tell_what_an_index_holds(simmap: Simmap, folder: Path) -> None:
    assert report(simmap("index", "build", "photos", "-o", "ix", "--json")) == {
        "index": "ix", "images": 7, "added": 7, "kept": 0, "removed": 0, "skipped": [],
    }  # fmt: skip
    info = report(simmap("index", "info", "ix", "--json"))
    assert info["labels"] == {"aerial": 2, "box": 2, "buddha": 2}
    assert info["root"] == str(folder) and info["model"] == str(MODEL) and info["dimension"] == 1280
    assert sorted(info["paths"]) == sorted(str(p) for p in folder.rglob("*.*"))

    (folder.parent / "more").mkdir()
    shutil.copy(SAMPLES / "home.jpg", folder.parent / "more")
    shutil.copy(SAMPLES / "building.jpg", folder.parent / "more")
    assert report(simmap("index", "add", "ix", "more", "--label", "house", "--json"))["added"] == 2
    assert (
        report(simmap("index", "remove", "ix", "photos/box", "more/home.jpg", "--yes", "--json"))["removed"]
        == 3
    )
    info = report(simmap("index", "info", "ix", "--json"))
    assert info["labels"] == {"aerial": 2, "buddha": 2, "house": 1}
    failed(simmap("index", "remove", "ix", "photos/box"), "ix: has no image photos/box")

    # The folder has changed: what has gone leaves, what is new comes, what was added from elsewhere stays.
    shutil.rmtree(folder / "aerial")
    shutil.copy(SAMPLES / "home.jpg", folder / "buddha" / "new.jpg")
    done = report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    assert (done["added"], done["kept"], done["removed"], done["images"]) == (3, 3, 2, 7)
    text = simmap("index", "info", "ix").stdout
    assert "1280 features" in text and "     3  buddha" in text and "     1  house" in text


def test_labels_come_from_a_file(simmap: Simmap, folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\nfruits.jpg,food\nbox/box.png,cookies\n")
    report(simmap("index", "build", "photos", "-o", "ix", "--labels", "photos/labels.csv", "--json"))
    assert report(simmap("index", "info", "ix", "--json"))["labels"] == {"cookies": 1, "food": 1}


def test_unreadable_images_are_listed_and_skipped_or_stop_the_run(simmap: Simmap, folder: Path) -> None:
    (folder / "box" / "broken.jpg").write_bytes((folder / "fruits.jpg").read_bytes()[:5000])
    failed(simmap("index", "build", "photos", "-o", "ix", "--strict"), "photos/box/broken.jpg")
    done = simmap("index", "build", "photos", "-o", "ix", "--json")
    assert done.returncode == 0
    assert done.stderr.startswith("simmap: skipped photos/box/broken.jpg: ") and done.stderr.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["images"] == 7
    assert [one["path"] for one in result["skipped"]] == ["photos/box/broken.jpg"]


def test_fast_decoding_reduces_large_photos_only(simmap: Simmap, folder: Path) -> None:
    large = cv2.resize(cv2.imread(str(SAMPLES / "home.jpg")), (2400, 1800), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "large.jpg"), large)
    vectors = []
    for name, more in (("full", []), ("fast", ["--fast-decode"])):
        report(simmap("index", "build", "photos", "-o", name, *more, "--json"))
        vectors.append(np.fromfile(folder.parent / name / "vectors-1.f32", "<f4").reshape(-1, 1280))
    cosines = (vectors[0] * vectors[1]).sum(axis=1)
    same = (vectors[0] == vectors[1]).all(axis=1)
    assert same.sum() == 7 and 0.99 < cosines[~same][0] < 1
    # The photo's own size is kept.
    assert 1800 in [entry.height for entry in Index(folder.parent / "fast").entries()]


def test_the_index_knows_its_model(simmap: Simmap, folder: Path) -> None:
    report(simmap("index", "build", "photos", "-o", "ix", "--model", AVG, "--json"))
    # Nobody has to say which model it was,
    found = report(simmap("search", "ix", "photos/fruits.jpg", "-k", "1", "--json"))
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-6)
    # but another one is refused, for searching and for adding.
    message = "ix: was built by another model"
    failed(simmap("search", "ix", "photos/fruits.jpg", "--model", MODEL), message)
    failed(simmap("index", "add", "ix", "photos", "--model", MODEL), message)
    failed(simmap("index", "build", "photos", "-o", "ix"), message)


def test_a_killed_build_goes_on(simmap: Simmap, folder: Path, tmp_path: Path) -> None:
    for i in range(300):
        shutil.copy(SAMPLES / "home.jpg", folder / f"{i:03}.jpg")
    command = [sys.executable, "-m", "simmap.cli", "index", "build", "photos", "-o", "ix"]
    process = subprocess.Popen([*command, "--model", str(AVG)], cwd=folder.parent)
    deadline = time.monotonic() + 60
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not any((folder.parent / "ix").glob("index.*"))
    ):
        time.sleep(0.001)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = report(simmap("index", "build", "photos", "-o", "ix", "--model", AVG, "--json"))
    assert done["added"] + done["kept"] == done["images"] == 307
    report(simmap("index", "build", "photos", "-o", "fresh", "--model", AVG, "--json"))
    killed, fresh = (folder.parent / name for name in ("ix", "fresh"))
    assert (killed / "vectors-1.f32").read_bytes() == (fresh / "vectors-1.f32").read_bytes()
    assert Index(killed).entries() == Index(fresh).entries()


def test_the_progress_bar_is_on_a_terminal_only(simmap: Simmap, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "simmap.cli",
        "index",
        "build",
        "photos",
        "-o",
        "ix",
        "--model",
        str(AVG),
    ]
    terminal, end = pty.openpty()
    done = subprocess.run(command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=end, check=False)
    os.close(end)
    message = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "7 of 7 images" in message and message.endswith("\r\033[K")
    assert simmap("index", "build", "photos", "-o", "iy", "--model", AVG).stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["index"],
        ["index", "build", "photos"],
        ["index", "add", "ix"],
        ["search", "ix"],
        ["search", "ix", "a.jpg", "-k", "0"],
        ["search", "ix", "a.jpg", "--region", "1,2,3"],
        ["search", "ix", "a.jpg", "b.jpg", "--region", "1,2,3,4"],
        ["search", "ix", "a.jpg", "--compare-whole"],
        ["class", "-o", "c.png"],
        ["class", "photos", "--label", "x", "-o", "c.png"],
        ["class", "photos", "--rest", "-o", "c.png"],
        ["contrast", "a.jpg", "b.jpg", "-o", "c.png"],
        ["contrast", "--model", "a.onnx", "q.jpg", "-o", "c.png"],
        ["contrast", "--model", "a.onnx", "q.jpg", "b.jpg", "--index-folder", "photos", "-o", "c.png"],
        ["contrast", "--model", "a.onnx", "q.jpg", "b.jpg", "--index", "ix", "-o", "c.png"],
        ["contrast", "q.jpg", "--index-folder", "photos", "--index", "ix", "-o", "c.png"],
        ["contrast", "q.jpg", "--index", "ix", "--index", "iy", "--model", "a.onnx", "-o", "c.png"],
        ["contrast", "q.jpg", "--index", "ix", "--labels", "text.csv", "-o", "c.png"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(simmap: Simmap, arguments: list[str]) -> None:
    failed(simmap(*arguments), "--help", code=2)


def test_failures_are_one_line_and_leave_nothing(simmap: Simmap, folder: Path) -> None:
    failed(simmap("index", "build", "nowhere", "-o", "ix"), "nowhere: is no folder of images")
    failed(simmap("index", "build", "photos", "-o", "photos"), "photos: is a folder with other files")
    failed(simmap("index", "build", "photos", "-o", "a/b"), "a/b: cannot be")
    failed(simmap("index", "info", "photos"), "photos: is no index; make one with")
    failed(simmap("search", "photos", "x.jpg"), "photos: is no index")
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    failed(simmap("search", "ix", "x.jpg"), "x.jpg")
    failed(simmap("search", "ix", "photos/fruits.jpg", "-o", "g.gif"), "g.gif: pictures are written as")
    failed(
        simmap("search", "ix", "photos/fruits.jpg", "--mask", "photos/box/box.png"), "the mask is 223 x 324"
    )
    failed(simmap("index", "build", "photos/box", "-o", "ix"), "ix: is the index of the folder")
    assert sorted(p.name for p in folder.parent.iterdir()) == ["ix", "photos"]


def test_check_finds_a_changed_byte(simmap: Simmap, folder: Path) -> None:
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    assert report(simmap("index", "check", "ix", "--json"))["images"] == 7
    assert simmap("index", "check", "ix").stdout.startswith("ix: 7 images are sound")
    vectors = folder.parent / "ix" / "vectors-1.f32"
    data = bytearray(vectors.read_bytes())
    data[4 * 1280 * 3] ^= 1
    vectors.write_bytes(data)
    failed(simmap("index", "check", "ix"), "ix")
