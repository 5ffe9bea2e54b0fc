"""What the page computes for its view, against the engine's pictures and regions."""

from typing import Any

import cv2
import numpy as np
import pytest
from page_common import in_browser

from simmap.engine.figures.heat import apply_heat
from simmap.engine.figures.scale import shared_scale
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.region import region_weights

# What people with each kind of colour blindness see of linear RGB (Machado, Oliveira, Fernandes, 2009).
BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TELLS_APART = 20  # a difference of CIELAB; 2 is just seen side by side


def painted(
    tab: Any, ground: np.ndarray[Any, Any], cells: np.ndarray[Any, Any], scale: float, opacity: float
) -> np.ndarray[Any, Any]:
    """(h, w, 3): the page's heat over greys (h, w)."""
    height, width = ground.shape
    body = """
      const { paintHeat } = await import('./heat.js');
      const target = new ImageData(given.width, given.height);
      paintHeat(target, Uint8Array.from(given.ground), given.cells, given.scale, given.opacity, 1);
      return [...target.data];
    """
    shown = in_browser(
        tab, body, width=width, height=height, ground=ground.ravel().tolist(), scale=scale, opacity=opacity,
        cells={"values": cells.ravel().tolist(), "rows": cells.shape[0], "columns": cells.shape[1]},
    )  # fmt: skip
    return np.array(shown, np.uint8).reshape(height, width, 4)[..., :3]


@pytest.mark.parametrize("seed", range(6))
def test_heat_has_the_colours_of_the_engines_pictures(tab: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns, height, width = (int(size) for size in random.integers(1, 40, 4))
    cells = random.normal(0, 0.02, (rows, columns)).astype(np.float32)
    scale, opacity = float(random.uniform(0.01, 0.05)), float(random.uniform(0.05, 1))
    ground = random.integers(0, 256, (height, width), np.uint8)
    values = cv2.resize(cells / np.float32(scale), (width, height), interpolation=cv2.INTER_LINEAR)
    expected = apply_heat(np.repeat(ground[..., None], 3, axis=2), np.asarray(values, np.float32), opacity)
    difference = np.abs(painted(tab, ground, cells, scale, opacity).astype(int) - expected)
    # A value between two colours of the table may fall to either.
    assert difference.max() <= 6 and difference.mean() < 0.1


def test_the_scale_is_that_of_the_engines_pictures(tab: Any) -> None:
    random = np.random.default_rng(0)
    largest = [0.0, 1.0, 0.07, 0.1, 0.037, 9.95, *(10 ** random.uniform(-6, 1, 200)).tolist()]
    body = """
      const { sharedScale } = await import('./scale.js');
      return given.largest.map((value) => sharedScale([[0, -value], [value / 2]]));
    """
    expected = [shared_scale([np.array([[value, 0]])]) for value in largest]
    assert in_browser(tab, body, largest=largest) == expected


@pytest.mark.parametrize("seed", range(6))
def test_regions_weigh_cells_as_in_the_engine(tab: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    width, height = (int(size) for size in random.integers(3, 90, 2))
    rows, columns = (int(size) for size in random.integers(1, 9, 2))
    # A letterbox in one direction and a crop in the other, or neither.
    pad, cut = random.choice([0, 0.2]) * height, random.choice([0, 0.1]) * width
    field = (cut, -pad, width - cut, height + pad)
    geometry = Geometry(height, width, field)
    boxes = [(0.0, 0.0, float(width), float(height))]
    for _ in range(20):
        left, right = np.sort(random.uniform(0, width, 2))
        top, bottom = np.sort(random.uniform(0, height, 2))
        boxes.append((left, top, right - left, bottom - top))
    boxes = [box for box in boxes if box[0] + box[2] > cut and box[0] < width - cut]
    body = """
      const { rectangle, regionWeights } = await import('./places.js');
      return given.boxes.map(([x, y, w, h]) =>
        [...regionWeights(given.grid, rectangle([x, y, x + w, y + h]), given.photo)]);
    """
    grid = {
        "rows": rows, "columns": columns, "x": field[0], "y": field[1],
        "width": field[2] - field[0], "height": field[3] - field[1],
    }  # fmt: skip
    shown = in_browser(tab, body, boxes=boxes, grid=grid, photo={"width": width, "height": height})
    for weights, box in zip(shown, boxes, strict=True):
        expected = region_weights(geometry, rows, columns, boxes=[box])
        np.testing.assert_allclose(np.reshape(weights, (rows, columns)), expected, atol=1e-5)


def test_a_lasso_weighs_cells_by_the_area_in_it(tab: Any) -> None:
    random = np.random.default_rng(0)
    width, height, rows, columns = 400, 300, 6, 8
    angles = np.sort(random.uniform(0, 2 * np.pi, 40))
    radii = random.uniform(60, 140, 40)
    polygon = np.stack([200 + radii * np.cos(angles), 150 + radii * np.sin(angles)], axis=-1)
    body = """
      const { regionWeights } = await import('./places.js');
      return [...regionWeights(given.grid, given.polygon, given.photo)];
    """
    grid = {"rows": rows, "columns": columns, "x": 0, "y": 0, "width": width, "height": height}
    shown = in_browser(
        tab, body, grid=grid, polygon=polygon.tolist(), photo={"width": width, "height": height}
    )
    drawn = np.zeros((8 * height, 8 * width), np.uint8)
    cv2.fillPoly(drawn, [np.rint(8 * polygon).astype(np.int32)], 1)
    expected = drawn.reshape(rows, 8 * height // rows, columns, 8 * width // columns).mean(axis=(1, 3))
    np.testing.assert_allclose(np.reshape(shown, (rows, columns)), expected, atol=0.01)


@pytest.mark.parametrize("blindness", BLIND)
@pytest.mark.parametrize("grey", [40, 128, 232])
def test_for_and_against_differ_for_colour_blind_people(tab: Any, blindness: str, grey: int) -> None:
    cells = np.array([[-1.0, 1.0]], np.float32)
    against, for_it = painted(tab, np.full((1, 2), grey, np.uint8), cells, 1, 0.6)[0] / np.float32(255)
    colours = np.stack([against, for_it])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLIND[blindness]), 0, 1).astype(np.float32)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055).astype(np.float32)
    one, other = cv2.cvtColor(encoded[None], cv2.COLOR_RGB2LAB)[0]
    assert np.linalg.norm(one - other) > TELLS_APART
