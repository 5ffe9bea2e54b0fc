"""Whether a file holds the weights that its contract speaks of.

``export`` stores a sha256 over the weights, the operators and the fields of the contract that change an
embedding. It is computed again here from the file itself, without the onnx package. Tensors count in any
order and without their names.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .protobuf import Value, fields, integers

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
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


@dataclass(frozen=True)
class Stored:
    """What a file holds of that which its fingerprint covers.

    Attributes:
        weights: sha256 of each tensor.
        operators: of the nodes.
    """

    weights: tuple[str, ...]
    operators: tuple[str, ...]


def read_stored(model: bytes) -> Stored:
    """The weights and operators of an ONNX file, given its content.

    Raises:
        ValueError: it is no ONNX file, or has a tensor of a type that artifacts do not have.
    """
    weights: list[str] = []
    operators: list[str] = []
    for graph in _messages(memoryview(model), MODEL_GRAPH):
        for number, value in fields(graph):
            if number == _GRAPH_INITIALIZER:
                weights.append(_digest(_message(value)))
            elif number == _GRAPH_NODE:
                # The last one counts, as in any protobuf reader.
                names = _messages(_message(value), _NODE_OPERATOR)
                operators.append(bytes(names[-1]).decode() if names else "")
    return Stored(tuple(sorted(weights)), tuple(sorted(operators)))


def fingerprint(stored: Stored, contract: Mapping[str, Any]) -> str:
    """The fingerprint of a file.

    Args:
        stored: what it holds.
        contract: its fields as JSON has them; in a parsed contract a number may be written another way.
    """
    facts = {
        "weights": stored.weights,
        "operators": stored.operators,
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
