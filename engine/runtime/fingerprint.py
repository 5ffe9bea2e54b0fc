"""Whether a file holds the weights that its contract speaks of.

``export`` stores a sha256 over the weights, the operators and the fields of the contract that change an
embedding. It is computed again here from the file itself, without the onnx package. Tensors count in any
order and without their names.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..contract import CONTRACT_KEY
from ..errors import ArtifactError, printable
from .protobuf import Value, fields, integers

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OPERATOR = 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW = 1, 2, 9
# Of a tensor that is not stored as bytes: the field of its values, and what an entry takes.
_TENSOR_FLOATS, _TENSOR_INT32, _TENSOR_INT64, _TENSOR_DOUBLES, _TENSOR_UINT64 = 4, 5, 7, 10, 11
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
SETTINGS = ("pooling", "p", "eps", "head", "bias", "precision")  # of the contract, beside its input


def check_fingerprint(path: Path, metadata: Mapping[str, str]) -> None:
    """Compute the fingerprint of a file again.

    Args:
        path: the artifact.
        metadata: its ``metadata_props``, whose contract is known to be valid.

    Raises:
        ArtifactError: the fingerprint is another one, so the weights, the operators or the contract have
            changed since the export; or the file cannot be read.
    """
    # Not from the parsed contract: a number must be written again as it was.
    contract = json.loads(metadata[CONTRACT_KEY])
    try:
        matches = fingerprint(path.read_bytes(), contract) == contract["fingerprint"]
    except OSError as error:
        raise ArtifactError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from error
    except ValueError:
        matches = False
    if not matches:
        raise ArtifactError(
            f"{printable(str(path))}: its weights do not match its fingerprint; the file is damaged, copy or "
            "export it again"
        )


def fingerprint(model: bytes, contract: Mapping[str, Any]) -> str:
    """The fingerprint of an ONNX file with this contract.

    Args:
        model: the file's content.
        contract: its fields as JSON has them.

    Raises:
        ValueError: it is no ONNX file, or has a tensor of a type that artifacts do not have.
    """
    digests: list[str] = []
    operators: list[str] = []
    for graph in _messages(memoryview(model), _MODEL_GRAPH):
        for number, value in fields(graph):
            if number == _GRAPH_INITIALIZER:
                digests.append(_digest(_message(value)))
            elif number == _GRAPH_NODE:
                # The last one counts, as in any protobuf reader.
                names = _messages(_message(value), _NODE_OPERATOR)
                operators.append(bytes(names[-1]).decode() if names else "")
    facts = {
        "weights": sorted(digests),
        "operators": sorted(operators),
        "input": contract["input"],
        **{name: contract.get(name) for name in SETTINGS},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(tensor: memoryview) -> str:
    """sha256 of a tensor's type, shape and values."""
    shape: list[int] = []
    kind = 0
    raw: memoryview | None = None
    entries: list[tuple[int, Value]] = []
    for number, value in fields(tensor):
        if number == _TENSOR_DIMS:
            shape += integers(value)
        elif number == _TENSOR_TYPE:
            kind = cast(int, value)
        elif number == _TENSOR_RAW:
            raw = _message(value)
        elif number in (_TENSOR_FLOATS, _TENSOR_INT32, _TENSOR_INT64, _TENSOR_DOUBLES, _TENSOR_UINT64):
            entries.append((number, value))
    if kind not in _DTYPES:
        raise ValueError(f"a tensor has the type {kind}")
    digest = hashlib.sha256(f"{_DTYPES[kind]} {tuple(shape)}".encode())
    digest.update(_unpacked(entries, np.dtype(_DTYPES[kind])) if raw is None else raw)
    return digest.hexdigest()


def _unpacked(entries: list[tuple[int, Value]], dtype: np.dtype[Any]) -> bytes:
    """The bytes of values that are stored one by one; small types take an int32 each."""
    if any(number in (_TENSOR_FLOATS, _TENSOR_DOUBLES) for number, _ in entries):
        return b"".join(bytes(_message(value)) for _, value in entries)
    values = [one for _, value in entries for one in integers(value)]
    wide = np.array([value & (1 << 64) - 1 for value in values], np.uint64)
    if dtype == np.float16:  # kept as its bits
        return wide.astype(np.uint16).tobytes()
    return wide.astype(f"u{dtype.itemsize}").tobytes()


def _messages(message: memoryview, wanted: int) -> list[memoryview]:
    return [_message(value) for number, value in fields(message) if number == wanted]


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value
