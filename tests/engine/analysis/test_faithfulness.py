"""Deletion and insertion against photos that are altered by hand, and their figures worked out by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import Engine, FaithfulnessFigure
from simmap.engine.analysis.blocks import SIDE
from simmap.engine.analysis.composites import Composites
from simmap.engine.analysis.faithfulness import Faithfulness, faithfulness
from simmap.engine.errors import ConfigError

BUDDHAS = str(PHOTOS / "buddha_a.jpg"), str(PHOTOS / "buddha_b.jpg")


def test_deletion_and_insertion_measure_the_altered_photo() -> None:
    """Two steps: the half of the blocks that the map names first, and everything."""
    with Engine(ARTIFACTS / "letterbox_bgr.onnx", device="cpu") as engine:
        found = faithfulness(engine, [BUDDHAS], steps=2, occlusion=True)
        photo = cv2.imread(BUDDHAS[0])[..., ::-1]
        height = 60  # 1.25 times the network's longer side
        small = cv2.resize(photo, (round(640 * height / 360), height), interpolation=cv2.INTER_AREA)
        (image,) = engine.embed([small])
        (other,) = engine.embed([BUDDHAS[1]])
        values = image.map_against(other)
        start = float(np.sum(values))
        x0, y0, x1, y1 = image.geometry.field
        h, w = small.shape[:2]

        def at(y: float, x: float) -> float:
            """The drawn map at a pixel's place, by OpenCV's own upscaling of it to a fine grid."""
            fine = cv2.resize(values, None, fx=64, fy=64, interpolation=cv2.INTER_LINEAR)
            row, column = (y - y0) / (y1 - y0) * fine.shape[0], (x - x0) / (x1 - x0) * fine.shape[1]
            return float(fine[min(int(row), fine.shape[0] - 1), min(int(column), fine.shape[1] - 1)])

        offsets = [(n + 0.5) / 4 for n in range(4)]
        means = {
            (by, bx): sum(at((by + a) * h / SIDE, (bx + b) * w / SIDE) for a in offsets for b in offsets)
            for by in range(SIDE)
            for bx in range(SIDE)
        }
        first = sorted(means, key=lambda block: -means[block])[: SIDE * SIDE // 2]
        hard = np.zeros((h, w), np.float32)
        for y in range(h):
            for x in range(w):
                hard[y, x] = (int((y + 0.5) * SIDE / h), int((x + 0.5) * SIDE / w)) in first
        soft = cv2.GaussianBlur(
            hard, (0, 0), sigmaX=0.25 * w / SIDE, sigmaY=0.25 * h / SIDE, borderType=cv2.BORDER_REPLICATE
        )[..., None]
        replaced = {
            "blur": cv2.GaussianBlur(small, (0, 0), 0.1 * w),
            "mean": np.broadcast_to(small.reshape(-1, 3).mean(axis=0).round(), small.shape),
        }
        for name, baseline in replaced.items():
            half = [(small * (1 - m) + baseline * m).round().astype(np.uint8) for m in (soft, 1 - soft)]
            empty = np.ascontiguousarray(baseline).astype(np.uint8)
            scores = [engine.compare(a, BUDDHAS[1]).score / start for a in (small, *half, empty)]
            # Pixels may be rounded the other way.
            close = {"atol": 1e-3}
            np.testing.assert_allclose(
                found.curves[name]["deletion"]["map"][0], [scores[0], scores[1], scores[3]], **close
            )
            np.testing.assert_allclose(
                found.curves[name]["insertion"]["map"][0], [scores[3], scores[2], scores[0]], **close
            )
            assert abs(scores[1] - scores[2]) > 5e-3  # the halves differ by more than that
            for curves in found.curves[name]["deletion"].values():
                np.testing.assert_allclose(curves[0][[0, 2]], [scores[0], scores[3]], **close)
        assert "occlusion" in found.curves["blur"]["deletion"] and found.pairs == (BUDDHAS,)


def test_the_map_finds_what_the_score_rests_on_better_than_chance(tmp_path: Path) -> None:
    """A photo pasted into a corner of another: only that corner is similar."""
    background, inset = cv2.imread(str(SAMPLES / "aero1.jpg")), cv2.imread(str(SAMPLES / "fruits.jpg"))
    background[20:260, 340:600] = cv2.resize(inset, (260, 240), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "pasted.png"), background)
    pairs = [(str(tmp_path / "pasted.png"), str(SAMPLES / "fruits.jpg")), BUDDHAS]
    with Engine(MODEL, device="cpu") as engine:
        found = faithfulness(engine, pairs, steps=5, occlusion=True)
        again = faithfulness(engine, pairs, steps=5)
    for baseline in ("blur", "mean"):
        differences = found.differences(baseline)
        for order in ("map", "influence", "mean", "layer_cam", "occlusion"):
            assert differences[order][0] > differences["random"][0] + 0.05, order
        np.testing.assert_allclose(again.differences(baseline)["random"], differences["random"], atol=0.05)
        assert "occlusion" not in again.differences(baseline)
    assert found.skipped == {"gradient_x_activation": "it is the influence here"}


def test_no_step_and_no_similar_pair_are_refused(tmp_path: Path) -> None:
    noise = str(tmp_path / "noise.png")
    cv2.imwrite(noise, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with Engine(MODEL, device="cpu") as engine:
        with pytest.raises(ConfigError, match="steps is 0"):
            faithfulness(engine, [BUDDHAS], steps=0)
        photos = map(str, sorted(SAMPLES.glob("*.*g")))
        unlike = [(noise, path) for path in photos if engine.compare(noise, path).score < 0.05]
        with pytest.raises(ConfigError, match="has a score above"):
            faithfulness(engine, unlike)
        assert faithfulness(engine, [*unlike, BUDDHAS], steps=1).left_out == len(unlike) > 0


def by_hand(pairs: int = 12) -> Faithfulness:
    """Three points a curve; the map is better than random and worse than the influence on every pair."""
    levels = np.linspace(0, 0.1, pairs)

    def curves(middle: float, end: float, start: float) -> np.ndarray:
        return np.array([[start, middle + level, end] for level in levels])

    kinds = {
        "deletion": {
            "map": curves(0.4, 0.2, 1.0),
            "influence": curves(0.2, 0.2, 1.0),
            "random": curves(0.6, 0.2, 1.0),
        },
        "insertion": {
            "map": curves(0.7, 1.0, 0.2),
            "influence": curves(0.9, 1.0, 0.2),
            "random": curves(0.6, 1.0, 0.2),
        },
    }
    names = tuple((f"{n}.jpg", "b.jpg") for n in range(pairs))
    return Faithfulness(names, 3, np.array([0.0, 0.5, 1.0]), {"blur": kinds}, {"token_cosine": "why"})


def test_every_figure_is_that_of_a_hand_calculation() -> None:
    measured = by_hand()
    made = Composites(4, {"map": np.array([True, True, True, False])})
    report = FaithfulnessFigure(measured, made).data()
    orders = report["baselines"]["blur"]
    # Two trapezia of width 1/2 on (1, 0.4 + level, 0.2); the mean level is 0.05.
    assert orders["map"]["deletion"] == pytest.approx(0.25 * (1 + 0.8 + 0.2) + 0.025)
    assert orders["map"]["insertion"] == pytest.approx(0.25 * (0.2 + 1.4 + 1.0) + 0.025)
    assert orders["map"]["difference"] == pytest.approx(0.65 - 0.5)
    assert orders["influence"]["difference"] == pytest.approx(0.75 - 0.4)
    assert orders["influence"]["gain"] == pytest.approx(0.2)
    assert orders["random"]["gain"] == pytest.approx(-0.15)
    # The levels cancel in every pair's difference, so that no resample differs.
    assert orders["influence"]["gain_interval"] == pytest.approx([0.2, 0.2])
    assert orders["map"]["interval"] == pytest.approx([0.15, 0.15])
    beats = {name: one["beats_map"] for name, one in orders.items()}
    assert beats == {"map": 0.0, "influence": 1.0, "random": 0.0}  # a tie is no win
    assert report["better"] == {"blur": ["influence"]} and report["worse"] == {"blur": ["random"]}
    assert orders["map"]["curves"]["deletion"] == pytest.approx([1, 0.45, 0.2])
    assert report["composites"] == {"count": 4, "matching_half_is_hotter": {"map": 0.75}}
    assert (report["pairs"], report["left_out"], report["skipped"]) == (12, 3, {"token_cosine": "why"})
    few = FaithfulnessFigure(by_hand(9)).data()
    assert few["better"] == few["worse"] == {"blur": []} and "composites" not in few


def test_an_interval_holds_the_mean_of_95_of_100_resamples() -> None:
    values = np.random.default_rng(1).normal(3, 2, 60)
    low, high = by_hand().interval(values)
    # The normal approximation of the mean's own spread.
    spread = 1.96 * values.std() / np.sqrt(60)
    assert low == pytest.approx(values.mean() - spread, abs=0.1 * spread)
    assert high == pytest.approx(values.mean() + spread, abs=0.1 * spread)
    assert by_hand().interval(values) == (low, high)
