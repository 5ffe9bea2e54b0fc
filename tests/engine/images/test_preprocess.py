"""The network's input, for every policy and kernel."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from encoded import smooth

from simmap.engine.contract import InputSpec
from simmap.engine.images.preprocess import preprocess


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic"])
@pytest.mark.parametrize(
    ("resize", "fraction"), [("squash", 1), ("crop", 1), ("crop", 0.875), ("crop", 0.4), ("letterbox", 1)]
)
@pytest.mark.parametrize("shape", [(301, 403), (403, 301), (40, 57), (57, 40), (60, 600), (600, 60)])
@pytest.mark.parametrize("target", [(64, 64), (48, 96)])
def test_a_square_of_the_photo_lands_where_the_geometry_says(kernel, resize, fraction, shape, target):
    spec = InputSpec(*target, resize=resize, kernel=kernel, crop_fraction=fraction, mean=(0, 0, 0))
    _, geometry = preprocess(np.zeros((*shape, 3), np.uint8), spec)
    x0, y0, x1, y1 = geometry.field
    # Off the centre of what is seen, so that a mirrored or shifted field shows.
    left, right = max(0.0, x0), min(float(shape[1]), x1)
    top, bottom = max(0.0, y0), min(float(shape[0]), y1)
    box_x0, box_x1 = round(left + 0.5 * (right - left)), round(left + 0.95 * (right - left))
    box_y0, box_y1 = round(top + 0.1 * (bottom - top)), round(top + 0.6 * (bottom - top))
    photo = np.zeros((*shape, 3), np.uint8)
    photo[box_y0:box_y1, box_x0:box_x1] = 255
    tensor, again = preprocess(photo, spec)
    assert again == geometry
    light = tensor[..., 0].astype(float) / 255
    columns, rows = light.max(axis=0), light.max(axis=1)
    expected = (
        (box_x0 - x0) / (x1 - x0) * target[1],
        (box_x1 - x0) / (x1 - x0) * target[1],
        (box_y0 - y0) / (y1 - y0) * target[0],
        (box_y1 - y0) / (y1 - y0) * target[0],
    )
    # "linear" and "cubic" look at one photo pixel in several, so they know an edge less well.
    for profile, low, high in ((columns, *expected[:2]), (rows, *expected[2:])):
        lit = np.flatnonzero(profile > 0.5)
        assert abs(lit[0] - low) <= 1
        assert abs(lit[-1] + 1 - high) <= 1
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
        assert abs(centre - (low + high) / 2) <= (0.25 if kernel == "area" else 0.6)


@pytest.mark.parametrize("shape", [(120, 90), (90, 120), (77, 131)])
@pytest.mark.parametrize("fraction", [1, 0.875, 0.5])
def test_crop_is_the_centre_of_the_resized_photo(shape, fraction):
    spec = InputSpec(48, 32, resize="crop", kernel="linear", crop_fraction=fraction)
    photo = smooth(*shape)
    scale = max(48 / shape[0], 32 / shape[1]) / fraction
    h, w = round(shape[0] * scale), round(shape[1] * scale)
    resized = cv2.resize(photo, (w, h), interpolation=cv2.INTER_LINEAR)
    top, left = (h - 48) // 2, (w - 32) // 2
    tensor, _ = preprocess(photo, spec)
    assert np.array_equal(tensor, resized[top : top + 48, left : left + 32])


def test_crop_of_all_of_a_photo_of_the_same_shape_is_the_photo():
    tensor, geometry = preprocess(smooth(48, 32), InputSpec(48, 32, resize="crop", crop_fraction=1))
    assert np.array_equal(tensor, smooth(48, 32))
    assert geometry.field == (0, 0, 32, 48)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("shape", [(100, 50), (50, 100)])
def test_letterbox_borders_have_the_mean_in_the_networks_order(colour, shape):
    spec = InputSpec(40, 40, colour=colour, resize="letterbox", mean=(0.485, -1.0, 7.0))
    tensor, _ = preprocess(np.full((*shape, 3), 9, np.uint8), spec)
    inside = np.zeros((40, 40), bool)
    inside[:, 10:30] = True
    if shape[1] > shape[0]:
        inside = inside.T
    assert (tensor[~inside] == (124, 0, 255)).all()
    assert (tensor[inside] == 9).all()


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_colour_order(resize):
    spec = InputSpec(20, 24, resize=resize)
    photo = np.full((60, 72, 3), (1, 2, 3), np.uint8)
    assert (preprocess(photo, spec)[0] == (1, 2, 3)).all()
    assert (preprocess(photo, replace(spec, colour="bgr"))[0] == (3, 2, 1)).all()


def test_kernels_are_those_of_opencv():
    photo = np.random.default_rng(0).integers(0, 256, (90, 110, 3), np.uint8)
    kernels = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
    for kernel, flag in kernels.items():
        tensor, _ = preprocess(photo, InputSpec(30, 50, kernel=kernel))
        assert np.array_equal(tensor, cv2.resize(photo, (50, 30), interpolation=flag))


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_another_size_than_the_specs(resize):
    spec = InputSpec(20, 24, resize=resize)
    ours, geometry = preprocess(smooth(), spec, size=(33, 17))
    theirs, same = preprocess(smooth(), replace(spec, height=33, width=17))
    assert ours.shape == (33, 17, 3)
    assert np.array_equal(ours, theirs)
    assert geometry == same


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic"])
@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10000), (10000, 1), (1, 100000), (100000, 2), (2, 99999)])
def test_very_thin_photos(monkeypatch, kernel, resize, shape):
    largest = []
    real = cv2.resize

    def watched(pixels, size, **options):
        largest.append(size[0] * size[1])
        return real(pixels, size, **options)

    monkeypatch.setattr(cv2, "resize", watched)
    photo = np.zeros((*shape, 3), np.uint8)
    photo[shape[0] // 2 :, shape[1] // 2 :] = 200
    tensor, geometry = preprocess(photo, InputSpec(224, 200, resize=resize, kernel=kernel, mean=(0, 0, 0)))
    assert tensor.shape == (224, 200, 3)
    # Less than 200 where two rows are averaged.
    assert tensor.max() >= 90
    assert max(largest) <= 100 * 224 * 200
    x0, y0, x1, y1 = geometry.field
    assert abs(x0 + x1 - shape[1]) <= (x1 - x0) / 200 + 1e-6
    assert abs(y0 + y1 - shape[0]) <= (y1 - y0) / 224 + 1e-6
    if resize == "crop":  # the smaller scale of the two, the same along both sides
        assert (x1 - x0) / 200 == pytest.approx((y1 - y0) / 224, rel=0.01)
