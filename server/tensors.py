"""Tensors of the Open Inference Protocol, version 2: in JSON, or in binary behind the JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine.images.photo import Source
from simmap.engine.types import Array

from .answers import json_bytes
from .forms import invalid, read_json
from .problems import ProblemError

LENGTH_HEADER = "inference-header-content-length"


@dataclass(frozen=True)
class Inference:
    """An inference request.

    Attributes:
        id: that the client gave.
        inputs: images, by the name of the input.
        outputs: names of the outputs that are asked for, each with whether it is to be binary; None for all.
        binary: whether outputs that are not named are binary.
    """

    id: str | None
    inputs: dict[str, list[Source]]
    outputs: dict[str, bool] | None
    binary: bool


def read(body: bytes, header_length: str | None) -> Inference:
    """An inference request.

    Args:
        body: of the request.
        header_length: of the JSON at its start, from the header; None where all of it is JSON.

    Raises:
        ProblemError: 422, it is no inference request.
    """
    end = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
            raise invalid(LENGTH_HEADER, "is no number")
        end = int(header_length)
        if end > len(body):
            raise invalid(LENGTH_HEADER, f"is {end}, more than the body's {len(body)} bytes")
    try:
        data = read_json(body[:end])
    except ValueError as error:
        raise ProblemError(422, "body", f"the request is no JSON: {error}") from error
    binary = memoryview(body)[end:]
    inputs: dict[str, list[Source]] = {}
    for tensor in _list(data, "inputs"):
        name = tensor.get("name")
        if not isinstance(name, str) or name in inputs:
            raise invalid("inputs", "must have a name each, of their own")
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(name, tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(binary):
            raise invalid(name, "has a binary_data_size that the body does not have")
        inputs[name], binary = _from_binary(name, tensor, binary[:size]), binary[size:]
    if len(binary):
        raise invalid("inputs", f"leave {len(binary)} bytes of the body over")
    asked = {}
    for one in _list(data, "outputs") if data.get("outputs") is not None else ():
        asked[str(one.get("name"))] = _parameters(one).get("binary_data") is True
    identifier = data.get("id")
    return Inference(
        identifier if isinstance(identifier, str) else None,
        inputs,
        asked or None,
        _parameters(data).get("binary_data_output") is True,
    )


def _list(data: Any, name: str) -> list[dict[str, Any]]:
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise invalid(name, "must be a list of objects")
    return found


def _parameters(data: dict[str, Any]) -> dict[str, Any]:
    given = data.get("parameters", {})
    if not isinstance(given, dict):
        raise invalid("parameters", "must be an object")
    return given


def _shape(name: str, tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise invalid(name, "needs a shape of whole numbers")
    return shape


def _from_binary(name: str, tensor: dict[str, Any], data: memoryview) -> list[Source]:
    shape, kind = _shape(name, tensor), tensor.get("datatype")
    if kind == "BYTES" and len(shape) == 1:
        images: list[Source] = []
        while len(data) >= 4 and (size := int.from_bytes(data[:4], "little")) <= len(data) - 4:
            images.append(bytes(data[4 : 4 + size]))
            data = data[4 + size :]
        if len(data) or len(images) != shape[0]:
            raise invalid(name, f"must hold {shape[0]} elements, each behind its length in 4 bytes")
        return images
    if kind == "UINT8" and _is_photo(shape):
        if np.prod(shape, dtype=float) != len(data):
            raise invalid(name, f"has {len(data)} bytes, which do not fill its shape {shape}")
        return [np.frombuffer(data, np.uint8).reshape(shape)]
    raise _unknown(name)


def _from_json(name: str, tensor: dict[str, Any]) -> list[Source]:
    shape = _shape(name, tensor)
    if tensor.get("datatype") != "UINT8" or not _is_photo(shape):
        raise _unknown(name)
    try:
        values: npt.NDArray[Any] = np.array(tensor.get("data")).reshape(-1)
    except ValueError as error:  # lists of unequal lengths
        raise invalid(name, "has data that are no tensor") from error
    if values.dtype.kind != "i" or values.size != np.prod(shape, dtype=float):
        raise invalid(name, f"must have data that fill its shape {shape} with whole numbers")
    if values.min() < 0 or values.max() > 255:
        raise invalid(name, "has values that are not between 0 and 255")
    return [values.astype(np.uint8).reshape(shape)]


def _is_photo(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and min(shape) > 0


def _unknown(name: str) -> ProblemError:
    return invalid(name, "must be BYTES [n], encoded images in binary, or UINT8 [height, width, 3], RGB")


def write(model: str, request: Inference, outputs: dict[str, Array]) -> tuple[bytes, dict[str, str]]:
    """The answer to a request, and its headers.

    Args:
        model: its name.
        request: what was asked.
        outputs: float32 tensors, by name.

    Raises:
        ProblemError: 422, an output is asked for that there is not.
    """
    asked = request.outputs or dict.fromkeys(outputs, request.binary)
    described, binary = [], b""
    for name, as_binary in asked.items():
        if name not in outputs:
            raise invalid("outputs", f"are {', '.join(outputs)}")
        values = np.ascontiguousarray(outputs[name], "<f4")
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if as_binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            binary += values.tobytes()
        else:
            tensor["data"] = values.reshape(-1).tolist()
        described.append(tensor)
    data: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": described}
    if request.id is not None:
        data["id"] = request.id
    header = json_bytes(data)
    if not binary:
        return header, {"Content-Type": "application/json"}
    length = {LENGTH_HEADER.title(): str(len(header)), "Content-Type": "application/octet-stream"}
    return header + binary, length
