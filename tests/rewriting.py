"""Artifacts with another contract, written without the onnx package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
from wire import entry

from simmap.engine.contract import CONTRACT_KEY, SCHEMA_KEY
from simmap.engine.runtime.fingerprint import fingerprint, read_stored


def metadata_of(source: Path) -> dict[str, str]:
    """The metadata of a file."""
    run = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    metadata: dict[str, str] = run.get_modelmeta().custom_metadata_map
    return metadata


def contract_of(source: Path) -> dict[str, Any]:
    """The contract in a file, as JSON has it."""
    contract: dict[str, Any] = json.loads(metadata_of(source)[CONTRACT_KEY])
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
    path = folder / "changed.onnx"
    path.write_bytes(with_contract(signed_contract(data, contract) if signed else contract, data, schema))
    return path


def signed_contract(model: bytes, contract: dict[str, Any]) -> dict[str, Any]:
    """``contract`` with the fingerprint of what the model holds.

    Raises:
        ValueError, KeyError: the model is not ONNX, or the contract lacks what a fingerprint covers.
    """
    return {**contract, "fingerprint": fingerprint(read_stored(model), contract)}


def with_contract(contract: Any, model: bytes, schema: object = "1") -> bytes:
    """A model with another contract."""
    metadata = {CONTRACT_KEY: json.dumps(contract).encode(), SCHEMA_KEY: str(schema).encode()}
    return with_metadata(model, metadata)


def with_metadata(model: bytes, metadata: dict[str, bytes]) -> bytes:
    """A model with other values of ``metadata_props`` that it has.

    They are field 14 of ModelProto (key 1, value 2). Of two with one key it is not said which one counts, so
    the old ones get other keys.
    """
    for key, value in metadata.items():
        assert model.count(key.encode()) == 1
        model = model.replace(key.encode(), key.replace("simmap", "before").encode())
        model += entry(14, entry(1, key.encode()) + entry(2, value))
    return model
