"""A fingerprint of all that changes an embedding."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import onnx
from onnx import numpy_helper

from simmap.engine.contract import InputSpec


def fingerprint(model: onnx.ModelProto, spec: InputSpec, settings: dict[str, Any]) -> str:
    """sha256 over the weights as stored, the operators, and what else changes an embedding.

    Names are left out, so that an exporter that only renames its tensors changes nothing.
    """
    digests = []
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        head = f"{value.dtype} {value.shape}".encode()
        digests.append(hashlib.sha256(head + value.tobytes()).hexdigest())
    facts = {
        "weights": sorted(digests),
        "operators": sorted(node.op_type for node in model.graph.node),
        "input": asdict(spec),
        **settings,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
