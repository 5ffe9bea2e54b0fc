"""The fingerprint: computed from the file itself, it is the one in the contract, and no damage passes."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import contract_of, rewritten

from common import ARTIFACTS, MODEL
from simmap.engine import ArtifactError, Engine
from simmap.engine.runtime.fingerprint import fingerprint, read_stored
from simmap.engine.runtime.protobuf import fields
from simmap.engine.runtime.session import open_session

PLACES: dict[str, list[tuple[int, int]]] = {}
CONTRACTS: dict[str, dict[str, Any]] = {}
FILES = [*sorted(ARTIFACTS.glob("*.onnx")), MODEL]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_that_of_the_contract(path: Path) -> None:
    contract = contract_of(path)
    assert fingerprint(read_stored(path.read_bytes()), contract) == contract["fingerprint"]


def weights(data: bytes) -> list[tuple[int, int]]:
    """Where the bytes of the initializers' values begin and end in a file."""
    whole = memoryview(data)
    start = np.frombuffer(whole, np.uint8).ctypes.data
    places = []
    for number, graph in fields(whole):
        for kind, tensor in fields(graph) if number == 7 and isinstance(graph, memoryview) else ():
            for entry, raw in fields(tensor) if kind == 5 and isinstance(tensor, memoryview) else ():
                if entry == 9 and isinstance(raw, memoryview) and len(raw):
                    first = np.frombuffer(raw, np.uint8).ctypes.data - start
                    places.append((first, first + len(raw)))
    return places


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_every_changed_byte_of_a_weight_is_found(drawn: int, change: int) -> None:
    data = bytearray(MODEL.read_bytes())
    places = PLACES.setdefault("model", weights(bytes(data)))
    assert sum(end - first for first, end in places) > 0.99 * len(data)
    at = drawn % sum(end - first for first, end in places)
    for first, end in places:
        if at < end - first:
            break
        at -= end - first
    data[first + at] ^= change
    contract = CONTRACTS.setdefault("model", contract_of(MODEL))
    assert fingerprint(read_stored(bytes(data)), contract) != contract["fingerprint"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["input"].update(colour="bgr"),
        lambda c: c["input"].update(mean=[0.4, 0.5, 0.61]),
        lambda c: c["input"].update(resize="crop"),
        lambda c: c["input"].update(kernel="cubic"),
        lambda c: c.update(pooling="max"),
        lambda c: c.update(precision="fp16"),
        lambda c: c.update(fingerprint="0" * 64),
    ],
)
def test_a_contract_that_was_changed_afterwards_is_found(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    path = rewritten(tmp_path, ARTIFACTS / "avg.onnx", change)
    with pytest.raises(ArtifactError, match="do not match its fingerprint; the file is damaged") as caught:
        open_session(path, device="cpu")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    # Signed anew it opens.
    assert open_session(
        rewritten(tmp_path, ARTIFACTS / "avg.onnx", lambda c: None, signed=True), device="cpu"
    )


def test_what_was_said_of_the_export_does_not_count(tmp_path: Path) -> None:
    path = rewritten(tmp_path, ARTIFACTS / "avg.onnx", lambda c: c.update(source={"name": "another"}))
    assert open_session(path, device="cpu").contract.source == {"name": "another"}


def test_a_damaged_file_gives_no_engine(tmp_path: Path) -> None:
    data = bytearray(MODEL.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="copy or export it again"):
        Engine(path, device="cpu")


@pytest.mark.parametrize("cache", [True, False])
def test_a_warm_start_does_not_read_the_weights_again(cache: bool, tmp_path: Path) -> None:
    # Python's own opening of files is audited; ONNX Runtime opens what it reads by itself.
    code = (
        "import sys\n"
        "from simmap.engine.runtime.session import open_session\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == 'open' else None)\n"
        f"open_session(sys.argv[1], device='cpu', threads=1, cache={cache})\n"
        "print(opened.count(sys.argv[1]))\n"
    )
    environment = {**os.environ, "SIMMAP_CACHE": str(tmp_path / "cache")}
    counts = [
        subprocess.run(
            [sys.executable, "-c", code, str(MODEL)],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert counts == ["1", "0" if cache else "1"]


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    contract = CONTRACTS.setdefault("avg", contract_of(ARTIFACTS / "avg.onnx"))
    try:
        found = fingerprint(read_stored(data), contract)
    except ValueError:
        return
    assert len(found) == 64


@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 40))
def test_damage_anywhere_is_read_or_refused(at: int, value: int, cut: int) -> None:
    data = bytearray((ARTIFACTS / "affine_bias.onnx").read_bytes())
    data[at % len(data)] = value
    contract = CONTRACTS.setdefault("affine_bias", contract_of(ARTIFACTS / "affine_bias.onnx"))
    with suppress(ValueError):
        assert len(fingerprint(read_stored(bytes(data[: len(data) - cut])), contract)) == 64
