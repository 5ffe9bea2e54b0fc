"""Recipes: every bad one is one clear line that names the file and the field, at once."""

import time
import xml
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


@pytest.mark.parametrize(
    "flags",
    [
        {"size": 1}, {"size": 8192}, {"size": "1x8192"}, {"size": [8192, 1]}, {"size": "0000224"},
        {"grid": "1x8192"}, {"crop_fraction": 1.0}, {"crop_fraction": 1e-9}, {"std": [-1, 2, 3]},
        {"pool": "gem", "p": 1e-9}, {"pool": "gem"}, {"timm": "x" * 1024}, {"reference": "blank"},
        {"fidelity": {"same_nearest": 0, "largest_map_difference": 1}},
    ],
)  # fmt: skip
def test_a_value_on_the_bound_is_taken(flags: dict[str, object]) -> None:
    load_recipe(None, {"timm": "a", **flags})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"size": 0}, "size is .0, 0., must be whole numbers from 1 to 8192"),
        ({"size": "224x0"}, "size is"),
        ({"size": 8193}, "size is"),
        ({"size": "1x8193"}, "size is"),
        ({"size": "1x2x3"}, "size is '1x2x3', must be like 224 or 160x320"),
        ({"size": "12345678"}, "must be like 224"),
        ({"size": True}, "size is True"),
        ({"grid": 0}, "grid is .0, 0., must be whole numbers from 1 to 8192"),
        ({"grid": "7x"}, "grid is '7x', must be like 7 or 7x7"),
        ({"grid": 7, "pool": "avg"}, "grid: is for a class token's patches"),
        ({"grid": 7, "conv_layer": "x"}, "grid: is for a class token's patches"),
        ({"crop_fraction": 0.0}, "crop_fraction is 0.0, must be above 0 and at most 1"),
        ({"crop_fraction": 1.001}, "crop_fraction is"),
        ({"std": [1, 0, 1]}, "std has a zero"),
        ({"p": 3.0}, "p is 3.0; it is the finite exponent above 0 of pool: gem"),
        ({"pool": "avg", "p": 3.0}, "p is 3.0"),
        ({"pool": "gem", "p": 0.0}, "p is 0.0"),
        ({"timm": "x" * 1025}, "timm is no name of at most 1024"),
        ({"reference": ""}, "reference is empty"),
        ({"fidelity": {"same_nearest": -0.01}}, "fidelity.same_nearest is -0.01, must be from 0 to 1"),
        ({"fidelity": {"largest_map_difference": 1.01}}, "fidelity.largest_map_difference is 1.01"),
        ({"torchvision": "b"}, "give one source of .*; given: torchvision and timm"),
        ({"timm": None, "onnx": "a", "weights": "b"}, "weights: an ONNX file has its own"),
        ({"reference": "nowhere"}, "reference must be blank, zero or a folder of photos"),
    ],
)
def test_a_value_beyond_the_bound_is_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, {"timm": "a", **flags})


def test_sides_are_height_and_width() -> None:
    assert load_recipe(None, {"timm": "a", "size": "160X320", "grid": 7}).size == (160, 320)
    assert load_recipe(None, {"timm": "a", "size": 224, "grid": "2x3"}).grid == (2, 3)
    assert load_recipe(None, {"timm": "a", "size": [160, 320]}).size == (160, 320)


@pytest.mark.parametrize(
    ("photos", "calibrate", "judge"), [(30, 10, 20), (32, 10, 22), (383, 127, 256), (900, 128, 512)]
)
def test_a_third_of_the_photos_calibrates_and_the_others_judge(
    photos: int, calibrate: int, judge: int, tmp_path: Path
) -> None:
    for number in range(photos):
        (tmp_path / f"{number:03}.jpg").touch()
    recipe = load_recipe(None, {"timm": "a", "precision": "int8", "calibrate": str(tmp_path)})
    parts = [[item.path for item in part] for part in recipe.split_photos()]
    assert [len(part) for part in parts] == [calibrate, judge]
    assert not set(parts[0]) & set(parts[1])
    assert all(part == sorted(part) for part in parts)


def test_paths_of_a_recipe_start_at_the_recipe_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    path = tmp_path / "recipe.yaml"
    path.write_text("timm: a\nweights: w.pth\nreference: photos\nsize: 64\n")
    recipe = load_recipe(path, {"size": None, "pool": "max"})
    assert (recipe.weights, recipe.size, recipe.pool) == (str(tmp_path / "w.pth"), (64, 64), "max")
    assert recipe.weights_path() == tmp_path / "w.pth"
    assert recipe.reference_photos() == [str(tmp_path / "photos" / "a.jpg")]
    assert load_recipe(path, {"reference": "zero", "weights": "v.pth"}).weights_path() == Path("v.pth")
    for word in ("blank", "zero"):
        path.write_text(f"timm: a\nweights: package:xml/dom/minidom.py\nreference: {word}\n")
        recipe = load_recipe(path, {})
        assert recipe.reference == word and recipe.reference_photos() == []
    assert recipe.weights_path() == Path(xml.__file__).parent / "dom" / "minidom.py"
