"""The engine's reading of a file gives the fingerprint that the onnx package's reading gives."""

from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.contract import InputSpec
from simmap.engine.runtime import fingerprint as engine
from simmap.export.surgery.fingerprint import fingerprint

KINDS = [np.float32, np.float64, np.float16, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64]
KINDS += [np.uint32, np.uint64, np.bool_]


@st.composite
def tensors(draw: st.DrawFn) -> onnx.TensorProto:
    """A tensor of any type, shape and storage."""
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    bits = draw(st.binary(min_size=dtype.itemsize * int(np.prod(shape)), max_size=1000))
    values = np.frombuffer(bits[: dtype.itemsize * int(np.prod(shape))], dtype)
    if dtype == np.bool_:
        values = values.view(np.uint8) % 2 == 1
    raw = draw(st.booleans())
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    name = draw(st.text(max_size=5))
    data: Any = values.astype(dtype).tobytes() if raw else values.tolist()
    return onnx.helper.make_tensor(name, kind, shape, data, raw=raw)


@given(st.lists(tensors(), max_size=6), st.lists(st.sampled_from(["Relu", "Conv", "É", ""]), max_size=6))
def test_any_model_has_one_fingerprint(weights: list[onnx.TensorProto], operators: list[str]) -> None:
    nodes = [onnx.helper.make_node(operator, ["x"], ["y"]) for operator in operators]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], weights))
    spec = InputSpec(height=8, width=9, mean=(0.1, 0, 1 / 3))
    settings = {"pooling": "gem", "p": 1.7, "eps": 1e-6, "head": "none", "bias": None, "precision": "fp32"}
    assert set(settings) == set(engine.SETTINGS)
    expected = fingerprint(model, spec, settings)
    contract = {**settings, "input": asdict(spec), "source": {}}
    assert engine.fingerprint(engine.read_stored(model.SerializeToString()), contract) == expected
