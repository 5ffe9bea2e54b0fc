"""Comparing and inspecting: what is printed, what is written, and how it fails."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import MODEL, ROOT, Simmap, failed


def written(tmp_path: Path) -> list[str]:
    """What the command left in its folder."""
    return sorted(p.name for p in (tmp_path / "cwd").iterdir())


def test_compare_prints_the_score_and_writes_the_picture(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    done = simmap("compare", *photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cosine similarity  0.")
    assert "efficientnet_lite0.onnx on cpu" in done.stdout
    picture = cv2.imread(str(tmp_path / "cwd" / "similarity.png"))
    assert picture.shape[0] > 400 and picture.shape[1] > 400


def test_compare_reports_json_whose_maps_sum_to_the_score(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    done = simmap("compare", *photos, "--json", "-o", "p.jpg", "--maps", "m.npz", "--point", "300,180")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) >= {"score", "residuals", "maps", "model", "device", "images", "picture", "point"}
    for values, rest in zip(report["maps"], report["residuals"], strict=True):
        assert np.array(values).shape == (7, 7)
        assert np.sum(values) + rest == pytest.approx(report["score"], abs=1e-5)
    assert report["images"][0] == {"path": str(photos[0]), "height": 360, "width": 640}
    assert report["device"] == "cpu"
    # column 300 of 640 is in cell 3 of 7, row 180 of 360 in cell 3 of 7
    assert report["point"]["cell"] == [3, 3]
    assert np.sum(report["point"]["map"]) == pytest.approx(report["maps"][0][3][3], abs=1e-6)
    assert written(tmp_path) == ["m.npz", "p.jpg"]
    saved = np.load(tmp_path / "cwd" / "m.npz")
    np.testing.assert_allclose(saved["map_0"], report["maps"][0], atol=1e-7)
    np.testing.assert_allclose(saved["map_1"], report["maps"][1], atol=1e-7)
    np.testing.assert_allclose(saved["point"], report["point"]["map"], atol=1e-7)
    assert float(saved["score"]) == pytest.approx(report["score"])


def test_compare_reports_what_raises_and_lowers_the_score_and_sums_a_region(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    region = ("--region", "0,0,320,180", "--region", "0,0,100,50")
    done = simmap("compare", *photos, "--json", "-o", "p.png", "--maps", "m.npz", "--influence", *region)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert np.sum(report["maps"][0]) == pytest.approx(report["score"], abs=1e-5)
    for values in report["influence"]:
        assert np.sum(values) == pytest.approx(0, abs=1e-6) and np.min(values) < 0 < np.max(values)
    saved = np.load(tmp_path / "cwd" / "m.npz")
    np.testing.assert_allclose(saved["influence_1"], report["influence"][1], atol=1e-7)
    weights = np.zeros((7, 7))  # the upper left quarter; the second box lies in the first
    weights[:3, :3], weights[3, :3], weights[:3, 3], weights[3, 3] = 1, 0.5, 0.5, 0.25
    for key, values in (("contribution", report["maps"][0]), ("influence", report["influence"][0])):
        assert report["region"][key] == pytest.approx((weights * values).sum(), abs=1e-5)
    text = simmap("compare", *photos, "-o", "q.png", *region).stdout
    assert f"region's contribution  {report['region']['contribution']:.4f}" in text
    assert f"region's influence     {report['region']['influence']:+.4f}" in text
    drawn = [cv2.imread(str(tmp_path / "cwd" / name)) for name in ("p.png", "q.png")]
    blue = [int(((p[..., 0] > 90) & (p[..., 2] < 50)).sum()) for p in drawn]
    assert blue[0] > blue[1] + 1000  # only influence has places that speak against
    failed(simmap("compare", *photos, "--force", "--region", "900,0,9,9"), "is off the photo")


def test_an_image_is_fully_similar_to_itself(simmap: Simmap, photos: tuple[Path, Path]) -> None:
    report = json.loads(simmap("compare", photos[0], photos[0], "--json").stdout)
    assert report["score"] == pytest.approx(1, abs=1e-6)


def test_nothing_is_overwritten_without_force(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    old = tmp_path / "cwd" / "similarity.png"
    old.write_bytes(b"old")
    failed(simmap("compare", *photos), "similarity.png: exists already; add --force")
    assert old.read_bytes() == b"old"
    assert simmap("compare", *photos, "--force").returncode == 0
    assert old.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "cwd" / "m.npz").write_bytes(b"old")
    failed(simmap("compare", *photos, "-o", "x.png", "--maps", "m.npz"), "m.npz: exists already")
    assert written(tmp_path) == ["m.npz", "similarity.png"]


def test_inspect_shows_the_whole_contract(simmap: Simmap) -> None:
    done = simmap("inspect", MODEL)
    assert done.returncode == 0, done.stderr
    for fact in (
        "tf_efficientnet_lite0",
        "1280 x 7 x 7",
        "avg",
        "224 x 224",
        "0.5, 0.5, 0.5",
        "fp16",
        "parity",
    ):
        assert fact in done.stdout
    report = json.loads(simmap("inspect", MODEL, "--json").stdout)
    assert (
        re.fullmatch("[0-9a-f]{64}", report["graph"]) and f"graph        {report['graph']}\n" in done.stdout
    )
    assert report["input"]["mean"] == [0.5, 0.5, 0.5]
    assert report["pooling"] == "avg" and report["dimension"] == 1280
    assert report["parity"]["pooled"]["relative"] < report["parity"]["pooled"]["tolerance"]


def test_the_script_runs_from_the_checkout_too(photos: tuple[Path, Path], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "compare", *map(str, photos), "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["score"] < 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["explain"], ["compare", "a.jpg"], ["compare", "a", "b", "--point", "3"], ["inspect"], ["export"],
     ["compare", "a", "b", "--colour", "red"], ["export", "--onnx", "x", "-o", "y", "--mean", "1,2"]],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_exit_2(simmap: Simmap, arguments: list[str]) -> None:
    failed(simmap(*arguments), "--help", code=2)


def bomb() -> bytes:
    """A PNG of 60 bytes or so that declares 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jpg", None, "missing.jpg"),
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"not an image at all, only words", "is not a JPEG, PNG, WebP, TIFF or BMP"),
        ("bomb.png", bomb(), "60000"),
        ("cut.jpg", "half", "cut.jpg"),
        ("folder.jpg", "folder", "is a folder"),
    ],
)
def test_bad_images_are_named(
    simmap: Simmap,
    photos: tuple[Path, Path],
    tmp_path: Path,
    place: int,
    name: str,
    content: object,
    message: str,
) -> None:
    bad = tmp_path / name
    if content == "half":
        data = photos[0].read_bytes()
        bad.write_bytes(data[: len(data) // 2])
    elif content == "folder":
        bad.mkdir()
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    pair = [photos[0], photos[0]]
    pair[place] = bad
    done = simmap("compare", *pair)
    failed(done, message)
    assert name in done.stderr
    assert written(tmp_path) == []


def test_models_that_are_none_are_named(simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x08\x01garbage")
    failed(simmap("compare", *photos, "--model", garbage), "garbage.onnx: is not an ONNX model")
    failed(simmap("compare", *photos, "--model", tmp_path / "no.onnx"), "no.onnx: no such model file")
    failed(simmap("inspect", tmp_path), "is a folder")
    assert written(tmp_path) == []


def test_cuda_that_is_not_to_be_had_is_an_error_that_says_what_is_missing(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime is built with CUDA")
    failed(simmap("compare", *photos, "--device", "cuda"), "built without CUDA")
    failed(
        simmap("compare", *photos, "--device", "tpu"), "device is 'tpu', must be auto, cpu, cuda or cuda:N"
    )
    assert written(tmp_path) == []


def first_of(folder: Path) -> str:
    """A PYTHONPATH on which ``folder`` comes first."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_both_runtimes_or_none_name_the_command_that_mends_it(
    simmap_process: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    # given a second distribution's metadata, as a second install leaves it
    both = tmp_path / "both"
    (both / "onnxruntime_gpu-1.30.0.dist-info").mkdir(parents=True)
    (both / "onnxruntime_gpu-1.30.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.30.0\n"
    )
    failed(simmap_process("compare", *photos, PYTHONPATH=first_of(both)), "both installed")
    # given an onnxruntime that cannot be imported
    none = tmp_path / "none"
    none.mkdir()
    (none / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime')\n")
    done = simmap_process("compare", *photos, PYTHONPATH=first_of(none))
    failed(done, "pip install 'simmap[cpu]'")
    assert "simmap[gpu]" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treads: 2", "unknown key 'treads'"),
        ("threads: two", "threads is 'two'"),
        ("model: !!python/object/apply:os.mkdir [pwned]", "not plain YAML"),
        ("size: [64, 64]", "takes 224 x 224 only"),
    ],
)
def test_bad_engine_options_are_named(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "engine.yaml"
    config.write_text(text)
    failed(simmap("compare", *photos, "--config", config), message)
    assert written(tmp_path) == []


def test_good_engine_options_are_taken(simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "engine.yaml"
    config.write_text(f"model: {MODEL}\nthreads: 1\npanel_height: 64\n")
    done = simmap("compare", *photos, "--config", config)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "cwd" / "similarity.png")).shape[0] < 500


@pytest.mark.parametrize(
    ("output", "message"),
    [("none/x.png", "does not exist"), (".", "is a folder"), ("x.gif", ".png")],
)
def test_outputs_that_cannot_be_are_named_and_nothing_is_left(
    simmap: Simmap, photos: tuple[Path, Path], tmp_path: Path, output: str, message: str
) -> None:
    failed(simmap("compare", *photos, "-o", output), message)
    assert written(tmp_path) == []


def test_a_full_disk_keeps_the_old_picture(photos: tuple[Path, Path], tmp_path: Path) -> None:
    old = tmp_path / "similarity.png"
    old.write_bytes(b"old")
    # A limit on file sizes fails a write half way, as a full disk does, without filling one.
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from simmap.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", *map(str, photos), "-o", str(old), "--force"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed(done, "similarity.png: cannot be written")
    assert old.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["similarity.png"]


def test_debug_shows_the_traceback(simmap: Simmap, photos: tuple[Path, Path]) -> None:
    done = simmap("compare", *photos, "--model", "none.onnx", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ArtifactError" in done.stderr


def test_names_in_any_script_work_throughout(
    simmap_process: Simmap, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    first = tmp_path / "фото 写真 é.jpg"
    shutil.copy(photos[0], first)
    done = simmap_process("compare", first, photos[1], "--json", "-o", "résumé.png", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["path"] == str(first)
    assert written(tmp_path) == ["résumé.png"]
