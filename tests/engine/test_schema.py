"""Plain data held against dataclasses, and YAML that holds nothing else."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from simmap.engine.errors import ConfigError
from simmap.engine.schema import build, load_yaml


@dataclass(frozen=True)
class Inner:
    size: int
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"]
    share: float | None = None
    pair: tuple[int, int] = (1, 2)


def test_data_become_what_the_annotations_say() -> None:
    data = {"inner": {"size": 3, "names": {"x": 1}}, "kind": "b", "share": 1, "pair": [4, 5]}
    made = build(Outer, data, kind="options", where="f")
    assert made == Outer(Inner(3, {"x": 1}), "b", 1.0, (4, 5)) and isinstance(made.share, float)
    least = build(Outer, {"inner": {"size": 3}, "kind": "a", "share": None}, kind="options", where="f")
    assert least == Outer(Inner(3), "a")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": True}, "kind is True, must be one of a, b"),
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": {"names": {}}}, "inner.size is missing"),
        ({"inner": {"size": 1, "names": {2: 1}}}, r"inner.names key is 2 \(int\), must be text"),
        (
            {"inner": {"size": 1, "names": {"x": "y"}}},
            r"inner.names.x is 'y' \(str\), must be a whole number",
        ),
        ({"pair": [1, 2, 3]}, "pair is .* must be a list of 2 numbers"),
        ({"pair": {1: 2, 3: 4}}, "pair is .* must be a list of 2 numbers"),
        ({"pair": [1, "x"]}, r"pair\[1\] is 'x'"),
        ({"share": True}, r"share is True \(bool\), must be a number"),
        ({"share": 10**400}, "share is 1000.* which is too large"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^f: {told}"):
        build(Outer, {"inner": {"size": 3}, "kind": "a", **change}, kind="options", where="f")
    with pytest.raises(ConfigError, match=r"^f: kind is missing"):
        build(Outer, {"inner": {"size": 3}, "share": 1}, kind="options", where="f")


def yaml(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "x.yaml"
    path.write_text(text)
    return load_yaml(path)


def test_yaml_of_20_levels_is_read_and_of_21_is_not(tmp_path: Path) -> None:
    # Values beside one another are no levels, whatever stands before and behind them.
    for beside in ("", "[[1]], " * 30):
        # The mapping, 18 lists, and the number in them.
        text = "a: [" + beside + "[" * 17 + "1" + "]" * 17 + "]\n"
        assert yaml(tmp_path, text).keys() == {"a"}
        with pytest.raises(ConfigError, match=r"more than 20 levels are not allowed \(line 1\)"):
            yaml(tmp_path, text.replace("1]]]", "[1]]]]"))


def test_a_key_that_is_given_twice_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the key 'a' is given twice \(line 3\)"):
        yaml(tmp_path, "a: 1\nb: 2\na: 3\n")
    assert yaml(tmp_path, "1: x\n'1': y\n") == {1: "x", "1": "y"}


def test_a_file_of_a_megabyte_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    text = "a: 1\n#"
    assert yaml(tmp_path, text.ljust(1 << 20, "#")) == {"a": 1}
    with pytest.raises(ConfigError, match="is larger than 1 MB"):
        yaml(tmp_path, text.ljust((1 << 20) + 1, "#"))
