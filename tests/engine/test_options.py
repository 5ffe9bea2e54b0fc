"""Options in YAML: the file that ships is the defaults, and every mistake is named."""

from pathlib import Path
from typing import Any

import pytest

from simmap.engine.errors import ConfigError
from simmap.engine.options import Options, load_options

ROOT = Path(__file__).parents[2]


def test_the_file_that_ships_lists_every_option_with_its_default() -> None:
    import yaml

    path = ROOT / "configs" / "engine.yaml"
    assert load_options(path) == Options()
    assert set(yaml.safe_load(path.read_text())) == set(Options.__dataclass_fields__)


def test_values_are_read_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("device: cpu\nthreads: 2\nsize: [160, 320]\nopacity: 1\n")
    assert load_options(path, threads=3, device=None) == Options(
        device="cpu", threads=3, size=(160, 320), opacity=1.0
    )


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("# nothing yet\n")
    assert load_options(path) == Options()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("treads: 2", "unknown key 'treads'; allowed are model, device, threads"),
        ("threads: two", r"threads is 'two' \(str\), must be a whole number"),
        ("threads: true", "threads is True"),
        ("threads: -1", "threads is -1, must be from 0 to 1024"),
        ("threads: 9999999999999999999", "threads is 9999999999999999999, must be from 0 to 1024"),
        ("workers: -2", "workers is -2, must be from 0 to 1024"),
        ("workers: 1025", "workers is 1025, must be from 0 to 1024"),
        ("size: [32, 8193]", r"size is \(32, 8193\), must be two whole numbers from 1 to 8192"),
        ("cache: 1", r"cache is 1 \(int\), must be true or false"),
        ("threads: 1.5", "threads is 1.5"),
        ("tf32: 1", r"tf32 is 1 \(int\), must be true or false"),
        ("size: 224", "size is 224 .* must be a list of 2"),
        ("size: [0, 224]", "size is .* two whole numbers"),
        ("opacity: 0", "opacity is 0.0, must be above 0"),
        ("opacity: .nan", "opacity is nan"),
        ("panel_height: 10", "panel_height is 10, must be between"),
        ("max_pixels: 0", "max_pixels is 0"),
        ("- device", "must hold a mapping of options, holds list"),
        ("device: [", "not plain YAML"),
        ("model: !!python/object/apply:os.system ['touch pwned']", "not plain YAML"),
        ("{1: 2}", "unknown key 1"),
    ],
)
def test_mistakes_are_named(text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_options(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.yaml"]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_options(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_options(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b.yaml: (cannot be read|is not plain YAML)"):
        load_options(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("name", "least", "most", "below", "above"),
    [
        ("threads", 0, 1024, -1, 1025),
        ("workers", 0, 1024, -1, 1025),
        ("max_pixels", 1, 10**12, 0, None),
        ("size", (1, 1), (8192, 8192), (1, 0), (8193, 1)),
        ("panel_height", 32, 4096, 31, 4097),
        ("opacity", 1e-9, 1.0, 0.0, 1.01),
        ("scale", 1e-9, 1e9, 0.9e-9, 1.1e9),
    ],
)
def test_the_bounds_of_an_option_are_allowed_and_what_lies_beyond_is_not(
    name: str, least: Any, most: Any, below: Any, above: Any
) -> None:
    for value in (least, most):
        assert getattr(Options(**{name: value}), name) == value
    for value in (below, above):
        if value is not None:
            with pytest.raises(ConfigError, match=f"^{name} is "):
                Options(**{name: value})
