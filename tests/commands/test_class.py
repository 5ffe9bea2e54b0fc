"""``simmap class``: what images share."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common import Simmap, failed, report


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
    moved = report(simmap("class", "photos/buddha", "-o", "h.png", "--json", "--influence"))
    assert moved["view"] == "influence" and same["view"] == "contribution"
    for image in moved["images"]:
        at = Path(image["path"]).name != Path(pair["images"][0]["path"]).name
        np.testing.assert_allclose(image["map"], pair["influence"][at], atol=1e-6)
    rest = report(simmap("class", "--index", "ix", "--label", "buddha", "--rest", "-o", "e.png", "--json"))
    assert rest["images"][0]["cohesion"] < same["images"][0]["cohesion"]
    plain = simmap("class", "photos/buddha", "-o", "f.png").stdout
    assert "buddha_a.jpg" in plain and "picture f.png" in plain
    for name in "cdef":
        assert cv2.imread(str(folder.parent / f"{name}.png")).std() > 20
    failed(simmap("class", "--index", "ix", "--label", "cat", "-o", "g.png"), "ix: has no label 'cat'")
    failed(simmap("class", "photos/nothing", "-o", "g.png"), "photos/nothing: is no folder of images")
