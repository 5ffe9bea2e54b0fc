"""Fingerprint and digest of the graph: computed from the file itself, they are the stored ones, and no damage
passes."""

import hashlib
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
from rewriting import contract_of, metadata_of, rewritten, with_metadata
from wire import Field, parsed
from wire import entry as field_of

from common import ARTIFACTS, MODEL
from simmap.engine import ArtifactError, Engine
from simmap.engine.contract import GRAPH_KEY, MAPS_KEY
from simmap.engine.runtime.fingerprint import fingerprint, graph_digest, read_stored
from simmap.engine.runtime.protobuf import fields
from simmap.engine.runtime.session import open_session

PLACES: dict[str, list[tuple[int, int]]] = {}
CONTRACTS: dict[str, dict[str, Any]] = {}
FILES = [*sorted(ARTIFACTS.glob("*.onnx")), MODEL]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_that_of_the_contract(path: Path) -> None:
    contract = contract_of(path)
    assert fingerprint(read_stored(path.read_bytes()), contract) == contract["fingerprint"]
    assert graph_digest(path.read_bytes()) == metadata_of(path)[GRAPH_KEY]
    assert open_session(path, device="cpu", threads=1).graph == metadata_of(path)[GRAPH_KEY]


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


def described(data: bytes) -> list[int]:
    """Where the bytes lie that are neither values of weights nor metadata."""
    metadata = [entry.encode() for entry in parsed(data) if entry.number == 14]
    end = len(data) - sum(map(len, metadata))
    assert data[end:] == b"".join(metadata)  # protobuf writes fields by their number
    places = weights(data)
    return [at for at in range(end) if not any(first <= at < last for first, last in places)]


def embedding(model: bytes, path: Path) -> Any:
    path.write_bytes(model)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    session = open_session(path, device="cpu", threads=1)
    return session.infer([noise], session.contract.explained[:1])[0]


def test_every_changed_byte_of_the_graph_is_refused_or_harmless(tmp_path: Path) -> None:
    data = (ARTIFACTS / "avg.onnx").read_bytes()
    expected, digest = embedding(data, tmp_path / "whole.onnx"), graph_digest(data)
    harmless = 0
    for number, at in enumerate(described(data)):
        for change in (1, 0x80, 1 + number * 89 % 255):
            damaged = bytearray(data)
            damaged[at] ^= change
            try:
                if graph_digest(bytes(damaged)) != digest:
                    continue
            except ValueError:
                continue
            harmless += 1
            assert (embedding(bytes(damaged), tmp_path / "harmless.onnx") == expected).all()
    assert harmless < 10


@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_file_with_a_damaged_graph_does_not_open(tmp_path_factory: Any, drawn: int, change: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    data = bytearray((ARTIFACTS / "avg.onnx").read_bytes())
    expected = embedding(bytes(data), path)
    places = described(bytes(data))
    data[places[drawn % len(places)]] ^= change
    refusal = None
    try:
        given_now = embedding(bytes(data), path)
    except ArtifactError as error:
        refusal = str(error)
    if refusal is None:
        assert (given_now == expected).all()
    else:
        assert refusal.startswith(str(path)) and "\n" not in refusal


def test_weights_that_changed_places_are_found(tmp_path: Path) -> None:
    # given two weights of one shape, whose names are exchanged: their fingerprint is the same
    root = Field(0, 2, b"", parsed((ARTIFACTS / "dynamic.onnx").read_bytes()), "model")
    (graph,) = (one for one in root.inside if one.number == 7)
    tensors = [one for one in graph.inside if one.number == 5]

    def entries(tensor: Field, number: int) -> list[Any]:
        return [one.value for one in tensor.inside if one.number == number]

    first, second = next(
        (a, b)
        for a in tensors
        for b in tensors
        if a is not b
        and all(entries(a, n) == entries(b, n) for n in (1, 2))
        and entries(a, 9) != entries(b, 9)
    )
    for one, other in zip(first.inside, second.inside, strict=True):
        if one.number == 8:
            one.value, other.value = other.value, one.value
    data = b"".join(one.encode() for one in root.inside)
    assert read_stored(data) == read_stored((ARTIFACTS / "dynamic.onnx").read_bytes())
    with pytest.raises(
        ArtifactError, match=f"its graph does not match {GRAPH_KEY} in its metadata; the file is"
    ):
        embedding(data, tmp_path / "exchanged.onnx")


def test_a_changed_graph_of_maps_is_found(tmp_path: Path) -> None:
    path = ARTIFACTS / "avg.onnx"
    maps = metadata_of(path)[MAPS_KEY]
    changed = with_metadata(path.read_bytes(), {MAPS_KEY: maps.swapcase().encode()})
    with pytest.raises(ArtifactError, match="its graph does not match"):
        embedding(changed, tmp_path / "changed.onnx")


def test_a_file_of_an_older_version_has_no_digest_and_opens(tmp_path: Path) -> None:
    path = tmp_path / "older.onnx"
    data = (ARTIFACTS / "avg.onnx").read_bytes()
    root = [one for one in parsed(data) if GRAPH_KEY.encode() not in one.encode()]
    path.write_bytes(b"".join(one.encode() for one in root))
    assert len(root) == len(parsed(data)) - 1
    assert open_session(path, device="cpu", threads=1).graph is None


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


# Numbers of ``TensorProto.DataType``.
TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), TYPES.items())
def test_a_weight_of_any_type_counts_with_its_type_shape_and_bytes(name: str, number: int) -> None:
    raw = np.arange(6).astype(name).tobytes()
    shape = Field(1, 0, 2).encode() + Field(1, 0, 3).encode()
    tensor = shape + Field(2, 0, number).encode() + field_of(9, raw)
    stored = read_stored(field_of(7, field_of(5, tensor)))
    assert stored.weights == (hashlib.sha256(f"{name} (2, 3)".encode() + raw).hexdigest(),)


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
