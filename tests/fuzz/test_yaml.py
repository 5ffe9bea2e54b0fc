"""YAML: options and recipes, or one line, soon."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzzing import fuzzed, trial
from mutations import altered, garbled

from common import ARTIFACTS, ROOT
from simmap.engine import Engine, PairFigure
from simmap.engine.errors import ConfigError
from simmap.engine.options import load_options

GREY = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3) // 2

OPTIONS = (ROOT / "configs" / "engine.yaml").read_text()
RECIPE = (ROOT / "configs" / "efficientnet_lite0.yaml").read_text()
RECIPES = (RECIPE, "onnx: model.onnx\npool: gem\np: 2.5\nsize: [32, 48]\nmean: [0.4, 0.5, 0.6]\n"
           "fidelity:\n  same_nearest: 0.5\nprecision: fp16\ndynamic: true\n")  # fmt: skip
# What YAML makes of few bytes, or leaves open.
HOSTILE = (
    "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{9 * f'*a{n},'}]\n" for n in range(8)),
    "&a [*a]", "model: &a {x: *a}", "[" * 5000, "{a: " * 5000, "threads: " + "9" * 5000,
    "threads: 1\nthreads: 2\n",
    "? {a: b}\n: 1", "2001-02-30: 1", "scale: 2001-02-30", "!!python/object/apply:os.system [x]",
    "model: x\n: \ufeff", "",
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "options.yaml"


def spoilt(draw: random.Random, text: str) -> bytes:
    if draw.randrange(8) == 0:
        return draw.choice(HOSTILE).encode()
    if draw.randrange(2):
        return yaml.safe_dump(altered(draw, yaml.safe_load(text))).encode("utf-8", "surrogatepass")
    return garbled(draw, text).encode("utf-8", "surrogatepass")


@fuzzed(tries=300)
def test_spoilt_options(draw: random.Random, path: Path) -> None:
    data = spoilt(draw, OPTIONS)
    path.write_bytes(data)
    with trial("yaml", **{"options.yaml": data}):
        options = replace(load_options(path), model=str(ARTIFACTS / "dynamic.onnx"), cache=False)
        if options.size is None or options.size[0] * options.size[1] < 1_000_000:
            with Engine(options=options) as engine:
                PairFigure(engine.compare(GREY, GREY + 50), options=options).picture()


@fuzzed(tries=300)
def test_spoilt_recipes(draw: random.Random, path: Path) -> None:
    recipe = pytest.importorskip("simmap.export.recipe")
    data = spoilt(draw, draw.choice(RECIPES))
    path.write_bytes(data)
    with trial("yaml", **{"recipe.yaml": data}):
        recipe.load_recipe(path, {}).weights_path()


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_hostile_yaml_is_refused(text: str, path: Path) -> None:
    path.write_text(text)
    with trial("yaml", **{"options.yaml": text.encode()}), pytest.raises(ConfigError):
        load_options(path)
