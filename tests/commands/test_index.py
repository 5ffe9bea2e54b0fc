"""Index, search, class, contrast and evaluate, on real photos."""

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

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES, Simmap, failed

AVG = ARTIFACTS / "avg.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photos in three classes and one without."""
    root = tmp_path / "cwd" / "photos"
    for label, paths in {
        "buddha": sorted(PHOTOS.glob("*.jpg")),
        "box": sorted(SAMPLES.glob("*.png")),
        "aerial": sorted(SAMPLES.glob("aero*.jpg")),
    }.items():
        (root / label).mkdir(parents=True)
        for path in paths:
            shutil.copy(path, root / label)
    shutil.copy(SAMPLES / "fruits.jpg", root)
    return root


def report(done: "subprocess.CompletedProcess[str]") -> dict:  # type: ignore[type-arg]
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


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
    heights = [json.loads(line)[2] for line in (folder.parent / "fast" / "images-1.jsonl").open()]
    assert 1800 in heights  # the photo's own size is kept


def test_search_reports_ranks_scores_and_regions(simmap: Simmap, folder: Path) -> None:
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    query = "photos/box/box_in_scene.png"
    plain = report(simmap("search", "ix", query, "-k", "2", "--exclude-self", "--json"))
    assert set(plain) == {"query", "region", "results"}
    assert plain["query"] == query and plain["region"] is None
    assert [hit["rank"] for hit in plain["results"]] == [1, 2]
    assert plain["results"][0] == {
        "rank": 1,
        "path": str(folder / "box" / "box.png"),
        "label": "box",
        "score": pytest.approx(plain["results"][0]["score"]),
    }
    both = report(simmap("compare", query, "photos/box/box.png", "--json"))
    assert plain["results"][0]["score"] == pytest.approx(both["score"], abs=1e-5)

    region = ("--region", "100,165,90,130", "--region", "150,165,130,130")
    done = report(simmap("search", "ix", query, *region, "--compare-whole", "-o", "g.jpg", "--json"))
    assert done["region"]["boxes"] == [[100, 165, 90, 130], [150, 165, 130, 130]]
    weights = np.array(done["region"]["weights"])
    other = next(hit for hit in done["results"] if hit["path"].endswith("box.png"))
    assert other["region_score"] == pytest.approx((weights * both["maps"][0]).sum(), abs=1e-5)
    assert other["score"] == pytest.approx(both["score"], abs=1e-5)
    assert done["whole_image_results"][0]["score"] == pytest.approx(1, abs=1e-6)
    picture = cv2.imread(str(folder.parent / "g.jpg"))
    assert picture.shape[0] > 800 and picture.std() > 20

    mask = np.zeros((384, 512), np.uint8)
    mask[165:295, 100:280] = 255
    cv2.imwrite(str(folder.parent / "m.png"), mask)
    drawn = report(simmap("search", "ix", query, "--mask", "m.png", "--json"))
    for hit, same in zip(drawn["results"], done["results"], strict=True):
        assert hit["path"] == same["path"]
        assert hit["region_score"] == pytest.approx(same["region_score"], abs=1e-5)


def test_search_prints_a_table_and_takes_several_queries_and_embeddings(simmap: Simmap, folder: Path) -> None:
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    done = simmap("search", "ix", "photos/fruits.jpg", "photos/box/box.png", "--per-class", "-k", "9")
    assert done.returncode == 0
    assert done.stdout.count("query ") == 2 and done.stdout.count("\n") == 2 * (1 + 1 + 3)
    vector = np.fromfile(folder.parent / "ix" / "vectors-1.f32", "<f4").reshape(-1, 1280)
    np.save(folder.parent / "q.npy", 7 * vector[:2])
    done = simmap("search", "ix", "--embedding", "q.npy", "-k", "1", "--json", "-o", "g.png")
    assert [one["results"][0]["score"] for one in json.loads(done.stdout)] == pytest.approx([1, 1], abs=1e-6)
    assert cv2.imread(str(folder.parent / "g.png")) is not None


def test_names_that_no_terminal_can_show_do_not_cost_the_results(
    simmap: Simmap, simmap_process: Simmap, folder: Path
) -> None:
    (folder / "line\nbreak").mkdir()
    shutil.copy(SAMPLES / "home.jpg", folder / "line\nbreak" / "ä.jpg")
    shutil.copy(SAMPLES / "home.jpg", os.fsencode(folder / "box") + b"/\xff.jpg")
    assert report(simmap("index", "build", "photos", "-o", "ix", "--json"))["images"] == 9
    done = simmap_process(
        "search", "ix", "photos/fruits.jpg", "-k", "9", "-o", "g.png", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2 + 9 + 1
    assert r"line\nbreak/\xe4.jpg" in done.stdout and r"\udcff.jpg" in done.stdout
    paths = report(simmap("index", "info", "ix", "--json"))["paths"]
    assert os.fsencode(folder / "box") + b"/\xff.jpg" in [os.fsencode(path) for path in paths]


def test_the_index_knows_its_model(simmap: Simmap, folder: Path) -> None:
    report(simmap("index", "build", "photos", "-o", "ix", "--model", AVG, "--json"))
    # Nobody has to say which model it was,
    found = report(simmap("search", "ix", "photos/fruits.jpg", "-k", "1", "--json"))
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-6)
    # but another one is refused, for searching and for adding.
    told = "ix: was built by another model"
    failed(simmap("search", "ix", "photos/fruits.jpg", "--model", MODEL), told)
    failed(simmap("index", "add", "ix", "photos", "--model", MODEL), told)
    failed(simmap("index", "build", "photos", "-o", "ix"), told)


def test_a_killed_build_goes_on(simmap: Simmap, folder: Path, tmp_path: Path) -> None:
    for i in range(300):
        shutil.copy(SAMPLES / "home.jpg", folder / f"{i:03}.jpg")
    command = [sys.executable, "-m", "simmap.cli", "index", "build", "photos", "-o", "ix"]
    process = subprocess.Popen([*command, "--model", str(AVG)], cwd=folder.parent)
    manifest = folder.parent / "ix" / "index.json"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not manifest.exists():
        time.sleep(0.001)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = report(simmap("index", "build", "photos", "-o", "ix", "--model", AVG, "--json"))
    assert done["added"] + done["kept"] == done["images"] == 307
    report(simmap("index", "build", "photos", "-o", "fresh", "--model", AVG, "--json"))
    for name in ("index.json", "images-1.jsonl", "vectors-1.f32"):
        assert (folder.parent / "ix" / name).read_bytes() == (folder.parent / "fresh" / name).read_bytes()


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
    told = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "7 of 7 images" in told and told.endswith("\r\033[K")
    assert simmap("index", "build", "photos", "-o", "iy", "--model", AVG).stderr == ""


def test_class_shows_what_its_images_share(simmap: Simmap, folder: Path) -> None:
    done = report(simmap("class", "photos/buddha", "-o", "c.png", "--json"))
    pair = report(simmap("compare", *sorted((folder / "buddha").glob("*.jpg")), "--json"))
    assert len(done["images"]) == 2 and done["class"] == "buddha"
    for image in done["images"]:
        # Two members: the class map of each is its map with the other.
        assert image["cohesion"] == pytest.approx(pair["score"], abs=1e-5)
        assert np.sum(image["map"]) == pytest.approx(pair["score"], abs=1e-5)
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    same = report(simmap("class", "--index", "ix", "--label", "buddha", "-o", "d.png", "--json"))
    assert [image["cohesion"] for image in same["images"]] == pytest.approx(
        [image["cohesion"] for image in done["images"]], abs=1e-6
    )
    rest = report(simmap("class", "--index", "ix", "--label", "buddha", "--rest", "-o", "e.png", "--json"))
    assert rest["images"][0]["cohesion"] < same["images"][0]["cohesion"]
    plain = simmap("class", "photos/buddha", "-o", "f.png").stdout
    assert "buddha_a.jpg" in plain and "picture f.png" in plain
    for name in "cdef":
        assert cv2.imread(str(folder.parent / f"{name}.png")).std() > 20
    failed(simmap("class", "--index", "ix", "--label", "cat", "-o", "g.png"), "ix: has no label 'cat'")
    failed(simmap("class", "photos/nothing", "-o", "g.png"), "photos/nothing: is no folder of images")


def test_contrast_shows_a_query_under_several_models(simmap: Simmap, folder: Path) -> None:
    a, b = sorted((folder / "buddha").glob("*.jpg"))
    done = report(simmap("contrast", "--model", MODEL, "--model", AVG, a, b, "-o", "c.png", "--json"))
    assert [row["model"] for row in done["rows"]] == [str(MODEL), str(AVG)]
    scores = [row["candidates"][0]["score"] for row in done["rows"]]
    for model, score in zip((MODEL, AVG), scores, strict=True):
        pair = report(simmap("compare", a, b, "--model", model, "--json", "--force"))
        assert score == pytest.approx(pair["score"], abs=1e-6)
    assert done["rows"][0]["correlation"] is None and -1 <= done["rows"][1]["correlation"] <= 1
    # The query may stand before the models, and a folder for the images.
    text = simmap(
        "contrast", a, "--model", MODEL, "--model", AVG, "--index-folder", "photos", "-k", "2",
        "--steps", "0,10", "-o", "d.png",
    ).stdout  # fmt: skip
    assert "step 0  recall@1 " in text and "step 10  recall@1 " in text
    assert text.count(".jpg") + text.count(".png") == 4 + 1 and str(a) not in text
    assert cv2.imread(str(folder.parent / "d.png")).shape[0] > 300


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


def test_contribution_draws_the_curve_of_sampled_or_given_pairs(simmap: Simmap, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    first = report(simmap("contribution", "--folder", "photos", "--pairs", "2", "-o", "c.png", "--json"))
    again = report(simmap("contribution", "--folder", "photos", "--pairs", "2", "-o", "d.png", "--json"))
    assert first["pairs"] == 2 and first["mean"] == again["mean"] and len(first["mean"]) == 1280
    assert first["mean"][-1] == pytest.approx(1, abs=1e-6)
    assert cv2.imread(str(folder.parent / "c.png")).std() > 10
    (folder / "pairs.csv").write_text("a,b\nbox/box.png,box/box_in_scene.png\n")
    text = simmap("contribution", "photos/pairs.csv", "-o", "e.svg").stdout
    assert "10 of 1280 features give" in text and (folder.parent / "e.svg").stat().st_size > 4000
    failed(simmap("contribution", "photos/pairs.csv", "-o", "e.svg"), "e.svg: exists already")
    failed(simmap("contribution", "-o", "e.svg"), "--help", code=2)


def test_evaluate_tells_whether_a_model_may_be_deployed(simmap: Simmap, folder: Path) -> None:
    done = report(simmap("evaluate", "photos", "--against", AVG, "--json"))
    shipped, other = done["models"]
    assert shipped["model"] == str(MODEL) and other["model"] == str(AVG)
    assert (shipped["images"], shipped["queries"], shipped["classes"]) == (7, 6, 3)
    assert 0.5 <= shipped["recall_at_1"] <= shipped["recall_at_5"] <= 1
    assert -1 <= done["agreement"]["map_correlation"] < 0.999
    assert done["agreement"]["completeness_error"] < 1e-5
    text = simmap("evaluate", "photos").stdout
    assert f"recall_at_1{'':22}{shipped['recall_at_1']:.4f}" in text
    failed(simmap("evaluate", "photos", "-o", "x.png"), "--help", code=2)
    failed(simmap("evaluate", "photos/box", "--model", AVG), "no class has two images")


def test_evaluate_measures_faithfulness(simmap: Simmap, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done = report(simmap("evaluate", "photos", "--faithfulness", "--pairs", "2", "-o", "f.png", "--json"))
    curves = done["faithfulness"]
    assert curves["pairs"] == 2 and len(curves["shares"]) == len(curves["deletion"]["map"]["curve"]) == 13
    assert curves["deletion"]["map"]["curve"][0] == pytest.approx(1, abs=1e-4)
    assert curves["deletion"]["map"]["area"] < curves["deletion"]["random"]["area"]
    assert cv2.imread(str(folder.parent / "f.png")).shape[1] > 1800
