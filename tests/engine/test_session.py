"""Sessions: the contract is held against the graph, the device that is asked for is the one taken."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from common import ARTIFACTS, MODEL
from simmap.engine.artifact import CONTRACT_KEY, SCHEMA_KEY
from simmap.engine.errors import ArtifactError, DeviceError
from simmap.engine.session import open_session

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def rewritten(tmp_path: Path, source: Path, change: Any) -> Path:
    """A copy of an artifact with a changed contract; written without the onnx package.

    ``metadata_props`` is field 14 of ModelProto (key 1, value 2), and later fields of a protobuf win
    over earlier ones of the same key when ONNX Runtime builds its map, so the changed entry is
    appended after the old one is made unreadable under its own name.
    """
    data = source.read_bytes()
    run = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    contract = json.loads(run.get_modelmeta().custom_metadata_map[CONTRACT_KEY])
    schema = change(contract) or "1"
    for key in (CONTRACT_KEY, SCHEMA_KEY):
        assert data.count(key.encode()) == 1
        data = data.replace(key.encode(), key.replace("simmap", "before").encode())

    def entry(number: int, payload: bytes) -> bytes:
        size, length = b"", len(payload)
        while True:
            size += bytes([length & 127 | (128 if length > 127 else 0)])
            length >>= 7
            if not length:
                return bytes([number << 3 | 2]) + size + payload

    for key, value in ((CONTRACT_KEY, json.dumps(contract)), (SCHEMA_KEY, schema)):
        data += entry(14, entry(1, key.encode()) + entry(2, value.encode()))
    path = tmp_path / "changed.onnx"
    path.write_bytes(data)
    return path


def test_an_untouched_copy_opens(tmp_path: Path) -> None:
    session = open_session(rewritten(tmp_path, ARTIFACTS / "avg.onnx", lambda c: None), device="cpu")
    assert session.device == "cpu"
    assert session.contract.pooling == "avg"


@pytest.mark.parametrize(
    ("artifact", "change", "told"),
    [
        ("avg", lambda c: "2", "schema 2, this simmap reads up to 1"),
        ("avg", lambda c: c["input"].update(height=c["input"]["height"] + 1), "its input has shape"),
        ("avg", lambda c: c.update(channels=7, dimension=7), "its output 'conv' has shape"),
        ("avg", lambda c: c.update(grid_width=99), "its output 'conv' has shape"),
        ("avg", lambda c: c.update(head="affine"), "lacks the output 'embedding'"),
        ("affine_bias", lambda c: c.update(dimension=99, bias=None), "its output 'embedding' has shape"),
        ("flatten", lambda c: c.update(pooling="avg"), "lacks the output 'pooled'"),
    ],
)
def test_a_contract_that_lies_is_refused(tmp_path: Path, artifact: str, change: Any, told: str) -> None:
    path = rewritten(tmp_path, ARTIFACTS / f"{artifact}.onnx", change)
    with pytest.raises(ArtifactError, match=told) as caught:
        open_session(path, device="cpu")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    data = MODEL.read_bytes()
    for size in (10, len(data) // 2, len(data) - 100):
        path = tmp_path / f"{size}.onnx"
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=rf"{size}\.onnx: is "):
            open_session(path, device="cpu")


def test_cpu_is_taken_when_asked_for_and_auto_says_what_it_took() -> None:
    assert open_session(MODEL, device="cpu").device == "cpu"
    assert open_session(MODEL).device == ("cuda:0" if HAS_CUDA else "cpu")


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:", "cuda:x", "", "auto:0"])
def test_unknown_devices_are_named(device: str) -> None:
    if device == "cuda:":
        device = "cuda:-1"
    with pytest.raises(DeviceError, match="must be auto, cpu, cuda or cuda:N"):
        open_session(MODEL, device=device)


@pytest.mark.skipif(HAS_CUDA, reason="this runtime is built with CUDA")
def test_cuda_without_cuda_is_an_error() -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=r"built without CUDA; run: .* 'simmap\[gpu\]'"):
            open_session(MODEL, device=device)


def test_the_threads_are_those_asked_for() -> None:
    assert open_session(MODEL, device="cpu", threads=1).run.get_session_options().intra_op_num_threads == 1
