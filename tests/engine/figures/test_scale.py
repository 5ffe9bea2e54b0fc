"""Scales and names: what is printed is what is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import Array

from simmap.engine.errors import DecompositionError
from simmap.engine.figures.names import short_names
from simmap.engine.figures.scale import shared_scale, tick_text
from simmap.engine.figures.text import MINUS


def test_scale_is_shared_and_starts_at_zero() -> None:
    assert shared_scale([np.array([[0.1, -0.4]]), None, np.array([[0.3]])]) == 0.4
    assert shared_scale([np.array([[0.2, 0.3]])]) == 0.3
    assert shared_scale([np.zeros((2, 2))]) == 1
    assert shared_scale([]) == 1


@pytest.mark.parametrize(
    ("largest", "scale"),
    [(0.0358, 0.036), (0.07, 0.07), (0.0701, 0.071), (0.996, 1.0), (123, 130), (1e-320, 1e-320)],
)
def test_scale_is_rounded_up_to_two_digits(largest: float, scale: float) -> None:
    assert shared_scale([np.array([[largest]])]) == scale
    assert shared_scale([np.array([[-largest]])]) == scale


@given(st.floats(1e-300, 1e300))
def test_no_value_lies_beyond_the_default_scale_and_its_number_is_exact(largest: float) -> None:
    scale = shared_scale([np.array([[largest]])])
    assert largest <= scale <= largest * 1.1 * (1 + 1e-12)
    assert float(tick_text(scale, signed=False).replace(MINUS, "-")) == scale


def test_a_scale_beyond_the_largest_float_is_not_rounded() -> None:
    largest = float(np.finfo(float).max)
    assert shared_scale([np.array([[largest]])]) == largest


def test_tick_texts() -> None:
    assert tick_text(0.0185, signed=False) == "0.0185"
    assert tick_text(0.03, signed=True) == "+0.03"
    assert tick_text(-0.03, signed=True) == f"{MINUS}0.03"
    assert tick_text(0.0, signed=True) == tick_text(0.0, signed=False) == "0"
    assert tick_text(0.03, signed=False, clipped=True) == "0.03 or more"
    assert tick_text(-0.03, signed=True, clipped=True) == f"{MINUS}0.03 or less"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0.1, np.nan]]), "NaN"),
        (np.zeros(7), r"\(7,\), must be \(H, W\)"),
        (np.zeros((0, 7)), r"\(0, 7\), must be \(H, W\)"),
    ],
)
def test_bad_maps_have_no_scale(values: Array, says: str) -> None:
    with pytest.raises(DecompositionError, match=says):
        shared_scale([values])


def test_names_are_folder_and_file_or_more_where_these_are_the_same() -> None:
    assert short_names(["a/x/00.jpg", "a/y/00.jpg"]) == {"a/x/00.jpg": "x/00.jpg", "a/y/00.jpg": "y/00.jpg"}
    assert short_names(["c/a/0.jpg", "1.jpg"]) == {"c/a/0.jpg": "a/0.jpg", "1.jpg": "1.jpg"}
    assert short_names(["/p/a/1/x", "/p/b/1/x", "/p/b/1/y"])["/p/b/1/y"] == "b/1/y"
    assert short_names(["<bytes>", "<bytes>"]) == {"<bytes>": "<bytes>"}
    assert short_names(["", "."]) == {"": "", ".": "."}
    assert short_names([]) == {}


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), max_size=6))
def test_names_of_different_files_differ(paths: list[str]) -> None:
    names = short_names(paths)
    assert set(names) == set(paths)
    assert len(set(names.values())) == len(set(paths))
    assert all(path.endswith(name) for path, name in names.items())
