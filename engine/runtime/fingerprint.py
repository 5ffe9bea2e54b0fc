"""Whether a file holds the weights and the graph that it was exported with.

``export`` stores two sha256. The fingerprint covers the weights, the operators and the fields of the contract
that change an embedding; tensors count in any order and without their names. The digest of the graph covers
the rest of the file: nodes, their attributes, and all names. Both are computed again here from the file
itself, without the onnx package.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..contract import MAPS_KEY, OPTIONAL_KEY
from .protobuf import Value, fields, integers

# Field numbers of onnx.proto.
MODEL_GRAPH, _MODEL_METADATA = 7, 14
_ENTRY_KEY = 1
_GRAPHS = (MAPS_KEY.encode(), OPTIONAL_KEY.encode())  # in the metadata
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


def graph_digest(model: bytes) -> str:
    """sha256 of an ONNX file, given its content, without the bytes of its weights and its metadata.

    Of the metadata, the graphs in it count.

    Raises:
        ValueError: it is no ONNX file.
    """
    digest = hashlib.sha256()

    def add(number: int, value: Value) -> None:
        size = "" if isinstance(value, int) else len(value)
        digest.update(f"{number} {size} ".encode())
        digest.update(str(value).encode() if isinstance(value, int) else value)

    for number, value in fields(memoryview(model)):
        if number == _MODEL_METADATA:
            if any(key in _GRAPHS for key in _messages(_message(value), _ENTRY_KEY)):
                add(number, value)
        elif number != MODEL_GRAPH:
            add(number, value)
        else:
            for part, inner in fields(_message(value)):
                if part != _GRAPH_INITIALIZER:
                    add(part, inner)
                    continue
                for entry, content in fields(_message(inner)):
                    if entry != _TENSOR_RAW:
                        add(entry, content)
    return digest.hexdigest()


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
