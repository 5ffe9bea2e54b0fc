"""Artifacts with another contract, written without the onnx package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from simmap.engine.contract import CONTRACT_KEY, SCHEMA_KEY
from simmap.engine.runtime.fingerprint import fingerprint, read_stored


def contract_of(source: Path) -> dict[str, Any]:
    """The contract in a file, as JSON has it."""
    run = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    contract: dict[str, Any] = json.loads(run.get_modelmeta().custom_metadata_map[CONTRACT_KEY])
    return contract


def rewritten(
    folder: Path, source: Path, change: Callable[[dict[str, Any]], object], *, signed: bool = False
) -> Path:
    """A copy of an artifact with a changed contract.

    Args:
        folder: where to write ``changed.onnx``.
        source: the artifact.
        change: of the contract as JSON has it; what it returns, if anything, is the schema.
        signed: give the copy the fingerprint of what it holds.
    """
    contract = contract_of(source)
    schema = change(contract) or "1"
    data = source.read_bytes()
    if signed:
        contract["fingerprint"] = fingerprint(read_stored(data), contract)
    path = folder / "changed.onnx"
    metadata = {CONTRACT_KEY: json.dumps(contract).encode(), SCHEMA_KEY: str(schema).encode()}
    path.write_bytes(with_metadata(data, metadata))
    return path


def with_metadata(model: bytes, metadata: dict[str, bytes]) -> bytes:
    """A model with other values of ``metadata_props`` that it has.

    They are field 14 of ModelProto (key 1, value 2). Of two with one key it is not said which one counts, so
    the old ones get other keys.
    """
    for key, value in metadata.items():
        assert model.count(key.encode()) == 1
        model = model.replace(key.encode(), key.replace("simmap", "before").encode())
        model += _entry(14, _entry(1, key.encode()) + _entry(2, value))
    return model


def _entry(number: int, payload: bytes) -> bytes:
    """A field of protobuf with bytes in it."""
    size, length = b"", len(payload)
    while True:
        size += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + size + payload
