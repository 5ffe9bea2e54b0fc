"""Artifacts: maps that sum to their score, or one line, whatever the file and its contract say."""

import copy
import json
import random
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzzed, trial
from mutations import altered, garbled, injured
from rewriting import contract_of, signed_contract, with_contract, with_metadata
from wire import rewired

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.contract import CONTRACT_KEY, GRAPH_KEY, MAPS_KEY, SCHEMA_KEY
from simmap.engine.options import Options
from simmap.engine.runtime.fingerprint import graph_digest

NOISE = np.random.default_rng(0)
PHOTOS = [NOISE.integers(0, 256, size, np.uint8) for size in ((40, 60, 3), (50, 30, 3))]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.onnx"


@cache
def seeds() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Artifacts and their contracts, by name."""
    return {one.stem: (one.read_bytes(), contract_of(one)) for one in sorted(ARTIFACTS.glob("*.onnx"))}


def drawn(draw: random.Random) -> tuple[bytes, dict[str, Any]]:
    model, contract = seeds()[draw.choice(sorted(seeds()))]
    return model, copy.deepcopy(contract)


def attempt(path: Path, model: bytes, kind: str) -> None:
    """Open the file and compare two photos with it."""
    path.write_bytes(model)
    options = Options(threads=1, cache=False)
    with trial(kind, **{"model.onnx": model}), Engine(path, device="cpu", options=options) as engine:
        pair = engine.compare(*PHOTOS)
        for values, residual in zip(pair.maps, pair.residuals, strict=True):
            assert np.isfinite(values).all()
            # The sum cancels where parts are much larger than what they sum to.
            slack = 1e-4 * (1 + float(np.abs(values).sum()) + abs(residual))
            assert abs(float(values.sum(dtype=np.float64)) + residual - pair.score) <= slack


@fuzzed(tries=250)
def test_spoilt_files(draw: random.Random, path: Path) -> None:
    model, _ = drawn(draw)
    attempt(path, injured(draw, model), "artifacts")


@fuzzed(tries=400)
def test_graphs_with_other_fields(draw: random.Random, path: Path) -> None:
    """Half of them with the digests that fit, as somebody would write them who wants to do harm."""
    model, contract = drawn(draw)
    model = rewired(draw, model)
    keys = (CONTRACT_KEY, SCHEMA_KEY, GRAPH_KEY)
    if draw.randrange(2) and all(model.count(key.encode()) == 1 for key in keys):
        with suppress(ValueError):
            model = with_contract(signed_contract(model, contract), model)
            model = with_metadata(model, {GRAPH_KEY: graph_digest(model).encode()})
    attempt(path, model, "artifacts")


@fuzzed(tries=400)
def test_contracts_that_say_something_else(draw: random.Random, path: Path) -> None:
    model, contract = drawn(draw)
    changed = altered(draw, contract)
    if draw.randrange(2):
        with suppress(KeyError, TypeError):
            changed = signed_contract(model, changed)
    schema = draw.choice((*10 * ("1",), "2", "2", "0", "3", "²", "1" * 5000, "-1", "1.0", ""))
    attempt(path, with_contract(changed, model, schema), "contracts")


@fuzzed(tries=150)
def test_metadata_that_is_no_contract(draw: random.Random, path: Path) -> None:
    model, contract = drawn(draw)
    text = json.dumps(contract, indent=1).encode()
    changed = draw.choice(
        (garbled(draw, text.decode()).encode("utf-8", "surrogatepass"), injured(draw, text))
    )
    key = draw.choice((CONTRACT_KEY, CONTRACT_KEY, SCHEMA_KEY, MAPS_KEY))
    if model.count(key.encode()) == 1:
        attempt(path, with_metadata(model, {key: changed}), "contracts")
