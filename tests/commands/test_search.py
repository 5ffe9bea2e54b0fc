"""``simmap search``: ranks, regions, embeddings, and names that no terminal can show."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import SAMPLES, Simmap, report


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


def test_results_stand_in_columns_with_names(simmap: Simmap, folder: Path) -> None:
    (folder / "a rather long label").mkdir()
    shutil.copy(SAMPLES / "home.jpg", folder / "a rather long label")
    report(simmap("index", "build", "photos", "-o", "ix", "--json"))
    query = "photos/box/box_in_scene.png"
    for region in ([], ["--region", "100,165,90,130"]):
        lines = simmap("search", "ix", query, "-k", "9", *region).stdout.splitlines()[1:]
        data = report(simmap("search", "ix", query, "-k", "9", *region, "--json"))["results"]
        # By the places of the names, numbers to the right and words to the left.
        ends = {name: lines[0].index(name) + len(name) for name in ("rank", "score")}
        starts = {name: lines[0].index(name) for name in ("label", "path")}
        assert ("region score" in lines[0]) == bool(region)
        for line, hit in zip(lines[1:], data, strict=True):
            assert line[: ends["rank"]].strip() == str(hit["rank"])
            assert line[: ends["score"]].split()[1] == f"{hit['score']:.4f}"
            assert line[starts["label"] : starts["path"]].strip() == (hit["label"] or "-")
            assert line[starts["path"] :] == hit["path"]
            if region:
                end = lines[0].index("region score") + len("region score")
                assert line[:end].split()[-1] == f"{hit['region_score']:.4f}"
