"""``simmap contribution`` and ``simmap evaluate``: curves and figures of a folder."""

from pathlib import Path

import cv2
import pytest

from common import ARTIFACTS, MODEL, Simmap, failed, report

AVG = ARTIFACTS / "avg.onnx"


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
    plain = ("evaluate", "photos", "--faithfulness", "--pairs", "2")
    done = report(simmap(*plain, "-o", "f.png", "--json"))["faithfulness"]
    assert done["pairs"] == 2 and set(done["baselines"]) == {"blur", "mean"}
    orders = done["baselines"]["blur"]
    assert set(orders) == {
        "map", "influence", "mean", "grad_cam", "layer_cam", "eigen_cam", "norm", "random",
    }  # fmt: skip
    for one in orders.values():
        assert len(one["curves"]["deletion"]) == len(done["shares"]) == 13
        assert one["curves"]["deletion"][0] == one["curves"]["insertion"][-1] == pytest.approx(1, abs=1e-4)
        curve = one["curves"]["deletion"]
        area = sum((a + b) / 24 for a, b in zip(curve[1:], curve[:-1], strict=True))
        assert one["deletion"] == pytest.approx(area, abs=1e-9)
        assert one["difference"] == pytest.approx(one["insertion"] - one["deletion"], abs=1e-9)
        assert one["interval"][0] <= one["difference"] <= one["interval"][1]
    assert orders["map"]["difference"] > orders["random"]["difference"]
    assert done["composites"]["count"] == 2
    assert cv2.imread(str(folder.parent / "f.png")).shape[1] > 1800
    lines = simmap(*plain).stdout.splitlines()
    start = lines.index("areas under the score of 2 pairs, removed blocks blurred:")
    head = lines[start + 1]
    for line, one in zip(lines[start + 2 :], orders.values(), strict=False):
        # Numbers stand below the ends of their names.
        for name, value in (("insertion", one["insertion"]), ("difference", one["difference"])):
            assert line[: head.index(name) + len(name)].split()[-1] == f"{value:.4f}"
    assert lines[-1] == "not measured: gradient x activation (it is the influence here)"
    assert "better than the map, at 95 %: none" in lines  # of two pairs nothing is said
    failed(simmap("evaluate", "photos", "--occlusion"), "--occlusion goes with --faithfulness", code=2)
