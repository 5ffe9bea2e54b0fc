"""Recipes: every bad one is one clear line that names the file and the field, at once."""

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simmap.engine.errors import ConfigError
from simmap.export.recipe import load_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def load(folder: Path, text: str) -> None:
    path = folder / "recipe.yaml"
    path.write_text(text)
    load_recipe(path, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"aliases are not allowed \(line 2\)"),
        ("timm: a\ntimm: b", r"the key 'timm' is given twice \(line 2\)"),
        ("timm: a\nfidelity: {same_nearest: 1, same_nearest: 0}", "'same_nearest' is given twice"),
        ("timm: " + "[" * 100_000, "more than 20 levels are not allowed"),
        ("timm: " + "{a: " * 100_000, "more than 20 levels are not allowed"),
        ("timm: " + "9" * 5000, "is not plain YAML"),
        ("timm: 2020-13-45", "is not plain YAML"),
        ("timm: " + "x" * 2_000_000, "is larger than 1 MB"),
        ("timm: " + "x" * 5000, "timm is no name of at most 1024 characters"),
        ('onnx: "a\\0b"', "onnx is no name"),
        ("timm: a\nsize: 99999999", "size is .*, must be whole numbers from 1 to 8192"),
        ("timm: a\nsize: " + "9" * 400, "size is "),
        ('timm: a\nsize: "²"', "size is '²', must be like 224"),
        ("timm: a\nmean: [.nan, 0, 0]", "mean is .* must be finite"),
        ("timm: a\nstd: [.inf, 1, 1]", "std is .* must be finite"),
        ("timm: a\npool: gem\np: .inf", "p is inf; it is the finite exponent above 0"),
        ("timm: a\nfidelity: 3", "fidelity is 3"),
        ("timm: a\nfidelity: {same_nearest: .nan}", "must be from 0 to 1"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_short_line(tmp_path: Path, text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    assert str(tmp_path / "recipe.yaml") in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("package:nowhere/x", "'nowhere' is not installed"),
        ("package:xml.dom/minidom.py", "'xml.dom' is not installed"),  # its parent would be imported
        ("package:/x", "'' is not installed"),
        ("package:xml/" + "x" * 300, "has no file"),
    ],
)
def test_weights_of_a_package_are_found_without_importing_it(weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, {"timm": "a", "weights": weights}).weights_path()


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner))


FIELDS = (
    *("timm", "onnx", "weights", "pool", "p", "size", "dynamic", "mean", "std", "colour", "crop_fraction"),
    *("precision", "calibrate", "fidelity", "module", "conv_layer"),
)


@given(st.sampled_from(FIELDS), VALUES)
@example("size", [10**400, 1])
@example("crop_fraction", True)
@settings(max_examples=150, deadline=None)
def test_any_value_of_any_field_is_taken_or_refused_by_its_name(name: str, value: object) -> None:
    try:
        load_recipe(None, {"torchvision": "a", name: value})
    except ConfigError as error:
        line = str(error)
    else:
        line = ""
    assert "\n" not in line
