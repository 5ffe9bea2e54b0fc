"""Composites of two photos against halves put together by hand."""

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import Engine
from simmap.engine.analysis.composites import composites, halves
from simmap.engine.dataset import Item, with_distractors

BUDDHAS = str(PHOTOS / "buddha_a.jpg"), str(PHOTOS / "buddha_b.jpg")


def test_a_half_stands_beside_the_other_half_of_the_stretched_photo() -> None:
    rng = np.random.default_rng(0)
    first, other = (rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 60), (80, 50)))
    stretched = cv2.resize(other, (60, 40), interpolation=cv2.INTER_AREA)
    left = halves(first, other, left=True)
    np.testing.assert_array_equal(left[:, :30], first[:, :30])
    np.testing.assert_array_equal(left[:, 30:], stretched[:, 30:])
    right = halves(first, other, left=False)
    np.testing.assert_array_equal(right[:, :30], stretched[:, :30])
    np.testing.assert_array_equal(right[:, 30:], first[:, 30:])


@pytest.mark.parametrize("name", ["avg", "letterbox_bgr"])
def test_the_hotter_half_has_the_larger_sum_of_the_map(name: str) -> None:
    triples = [(*BUDDHAS, str(SAMPLES / other)) for other in ("fruits.jpg", "home.jpg", "aero1.jpg")]
    with Engine(ARTIFACTS / f"{name}.onnx", device="cpu") as engine:
        found = composites(engine, triples)
        assert found.count == 3
        for at, (first, second, third) in enumerate(triples):
            # Made again at the size that the network can tell.
            least = round(1.25 * max(engine.contract.input.height, engine.contract.input.width))
            small = []
            for path in (first, third):
                photo = cv2.imread(path)[..., ::-1]
                scale = least / min(photo.shape[:2])
                size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
                small.append(cv2.resize(photo, size, interpolation=cv2.INTER_AREA))
            picture = halves(small[0], small[1], left=at != 1)
            (image,) = engine.embed([picture])
            (other,) = engine.embed([second])
            for order, view in (("map", "contribution"), ("influence", "influence")):
                values = image.map_against(other, view)  # type: ignore[arg-type]
                height, width = values.shape
                # Columns of the map: both halves are as wide, whatever the padding.
                x0, _, x1, _ = image.geometry.field
                middle = (picture.shape[1] // 2 - x0) / (x1 - x0) * width
                left = sum(
                    min(max(middle - x, 0), 1) * values[y, x] for y in range(height) for x in range(width)
                )
                right = values.sum() - left
                assert found.hotter[order][at] == ((right > left) if at == 1 else (left > right)), order


def test_the_matching_half_of_a_statue_is_hotter() -> None:
    triples = [(*BUDDHAS, str(SAMPLES / "fruits.jpg")), (*BUDDHAS[::-1], str(SAMPLES / "home.jpg"))]
    with Engine(MODEL, device="cpu") as engine:
        found = composites(engine, triples, seed=3)
        again = composites(engine, triples, seed=3)
    assert found.hotter["map"].all() and found.hotter["influence"].all()
    np.testing.assert_array_equal(found.hotter["random"], again.hotter["random"])


def test_a_distractor_has_another_label_and_one_class_has_none() -> None:
    items = [Item(f"{label}{n}", label) for label in "abc" for n in range(3)] + [Item("x"), Item("y")]
    pairs = [("a0", "a1"), ("b0", "b2"), ("c1", "c2")] * 9
    triples = with_distractors(items, pairs, seed=1)
    assert [triple[:2] for triple in triples] == pairs
    assert all(third[0] in "abc" and third[0] != first[0] for first, _, third in triples)
    assert len({third for *_, third in triples}) > 5
    assert triples == with_distractors(items, pairs, seed=1) != with_distractors(items, pairs, seed=2)
    assert with_distractors(items[:3], [("a0", "a1")]) == []
