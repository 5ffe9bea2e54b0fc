"""ONNX Runtime prints nothing beside an error, wherever an artifact is damaged."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from common import ARTIFACTS
from simmap.engine.errors import ArtifactError, DeviceError, SimmapError
from simmap.engine.runtime.ort import CPU, cpu_session, import_runtime, one_line
from simmap.engine.runtime.session import open_session

NAMES = sorted(path.stem for path in ARTIFACTS.glob("*.onnx"))
TRIES = 60


@pytest.mark.parametrize("name", NAMES)
def test_damaged_artifacts_are_one_line_and_nothing_is_printed(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = (ARTIFACTS / f"{name}.onnx").read_bytes()
    rng = np.random.default_rng(len(name))
    path = tmp_path / "damaged.onnx"
    errors: list[SimmapError] = []
    # Most of the file is metadata and weights; half of the changes are in the graph before these.
    ends = [len(data), data.index(b"simmap.") // 2]
    for turn in range(TRIES):
        changed = bytearray(data)
        changed[int(rng.integers(0, ends[turn % 2]))] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            session = open_session(path, device="cpu", threads=1)
            spec = session.contract.input
            session.infer([np.zeros((spec.height, spec.width, 3), np.uint8)], session.contract.explained)
        except SimmapError as error:
            errors.append(error)
    assert len(errors) > TRIES / 2
    for error in errors:
        assert isinstance(error, ArtifactError)
        assert str(error).startswith(str(path)) and str(error).isprintable()
    assert capfd.readouterr() == ("", "")


def test_a_weight_of_the_wrong_shape_is_one_line_without_a_banner(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = (ARTIFACTS / "avg.onnx").read_bytes()
    # The first dimension of the first weight, which is (8, ...), beside its type float.
    at = re.search(rb"\x08\x08\x08.\x08.\x08.\x10\x01", data)
    assert at is not None
    path = tmp_path / "shape.onnx"
    path.write_bytes(data[: at.start() + 1] + b"\x07" + data[at.start() + 2 :])
    with pytest.raises(ArtifactError, match="is not an ONNX model that this ONNX Runtime can open"):
        open_session(path, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_session_of_bytes_is_that_of_the_file() -> None:
    path = ARTIFACTS / "affine_bias.onnx"
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    found = [
        cpu_session(model, threads=1, optimise=optimise).run(["embedding"], {"image": image})[0]
        for model in (path, path.read_bytes())
        for optimise in (True, False)
    ]
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=1e-5, atol=1e-6)
    assert cpu_session(path, threads=3).get_session_options().intra_op_num_threads == 3


def test_what_is_no_model_is_an_error_of_one_line() -> None:
    for model in (b"", b"nothing", bytes(100)):
        with pytest.raises(ArtifactError, match="the model: is not an ONNX model") as caught:
            cpu_session(model)
        assert str(caught.value).isprintable()


def test_errors_of_the_runtime_lose_their_codes() -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(b"nothing", providers=[CPU])
    line = one_line(caught.value)
    assert "ONNXRuntimeError" not in line and not line[0].isdigit() and len(line) <= 200
    assert one_line(RuntimeError("a\n\x1b[31mb" + "c" * 300)).startswith("a [31mb")


def test_errors_of_more_than_200_characters_are_cut() -> None:
    assert one_line(RuntimeError("c" * 200)) == "c" * 200
    assert one_line(RuntimeError("c" * 201)) == "c" * 197 + "..."


def test_both_runtimes_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("onnxruntime", "onnxruntime_gpu"):
        installed = tmp_path / f"{name}-1.0.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    with pytest.raises(DeviceError, match="are both installed and break each other; run: pip uninstall"):
        import_runtime.__wrapped__()
