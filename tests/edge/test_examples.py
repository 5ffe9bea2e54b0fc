"""The programs of ``examples/edge`` print what the engine gives."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from runtimes import NODE_MODULES

from common import MODEL, PHOTOS, ROOT

pytest.importorskip("onnx")

from simmap.engine import Engine
from simmap.engine.options import Options
from simmap.engine.results import Pair
from simmap.export.pair import export_pair

EXAMPLES = ROOT / "examples" / "edge"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair graph for photos and one for prepared pixels, and photos of two sizes as PPM files."""
    root = tmp_path_factory.mktemp("edge")
    export_pair(MODEL, root / "pair.onnx", photo=True)
    export_pair(MODEL, root / "sized.onnx")
    for name, path in zip("ab", sorted(PHOTOS.glob("*.jpg")), strict=True):
        photo = cv2.imread(str(path))
        cv2.imwrite(str(root / f"{name}.ppm"), photo if name == "a" else photo[20:330, 40:600])
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> Pair:
    with Engine(MODEL, device="cpu", options=Options(cache=False)) as engine:
        return engine.compare(*(cv2.imread(str(folder / f"{name}.ppm"))[..., ::-1].copy() for name in "ab"))


def cpp(folder: Path) -> list[str]:
    """Compile the C++ program."""
    home, compiler = os.environ.get("ONNXRUNTIME_HOME"), shutil.which("g++")
    if home is None or compiler is None:
        pytest.skip("set ONNXRUNTIME_HOME to an unpacked release of ONNX Runtime for C++, and install g++")
    program = folder / "pair"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{home}/include", f"-L{home}/lib"]
    command = [compiler, *flags, EXAMPLES / "cpp" / "pair.cpp", "-lonnxruntime", f"-Wl,-rpath,{home}/lib"]
    command += ["-o", program]
    subprocess.run(command, check=True)
    return [str(program)]


def java(folder: Path) -> list[str]:
    """Compile the Java program."""
    jar, compiler = os.environ.get("ONNXRUNTIME_JAR"), shutil.which("javac")
    if jar is None or compiler is None:
        pytest.skip("set ONNXRUNTIME_JAR to Maven's com.microsoft.onnxruntime:onnxruntime, and install a JDK")
    source = EXAMPLES / "java" / "src" / "main" / "java" / "Pair.java"
    subprocess.run([compiler, "-Xlint:all", "-Werror", "-cp", jar, "-d", folder, source], check=True)
    return ["java", "-cp", f"{folder}:{jar}", "Pair"]


def csharp(folder: Path) -> list[str]:
    """Build the C# program, with packages from NuGet."""
    if shutil.which("dotnet") is None:
        pytest.skip("install the .NET SDK 8")
    shutil.copytree(EXAMPLES / "csharp", folder / "csharp")
    subprocess.run(["dotnet", "build", "-o", folder / "built", folder / "csharp"], check=True)
    return ["dotnet", str(folder / "built" / "pair.dll")]


def javascript(folder: Path) -> list[str]:
    """Put the JavaScript program beside its packages."""
    if shutil.which("node") is None or not (NODE_MODULES / "onnxruntime-web").is_dir():
        pytest.skip("install Node 20, and npm install --prefix build/node onnxruntime-web@1.30.0")
    shutil.copytree(EXAMPLES / "javascript", folder / "javascript")
    (folder / "javascript" / "node_modules").symlink_to(NODE_MODULES)
    return ["node", str(folder / "javascript" / "pair.mjs")]


@pytest.fixture(scope="module", params=[cpp, java, csharp, javascript], ids=lambda build: build.__name__)
def program(request: pytest.FixtureRequest, folder: Path) -> list[str]:
    command: list[str] = request.param(folder)
    return command


def run(command: Sequence[str], folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_a_program_prints_score_residuals_and_maps(program: list[str], folder: Path, expected: Pair) -> None:
    done = run(program, folder, "pair.onnx", "a.ppm", "b.ppm")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["score", "residual_a", "residual_b"]
    score, *residuals = (float(line.split()[1]) for line in lines[:3])
    assert score == pytest.approx(expected.score, abs=2e-3)
    assert residuals == [0, 0]
    height, width = expected.maps[0].shape
    for at, name in ((3, "map_a"), (4 + height, "map_b")):
        assert lines[at] == f"{name} {height} x {width}"
        values = np.array([line.split() for line in lines[at + 1 : at + 1 + height]], dtype=float)
        assert values.shape == (height, width)
        assert np.abs(values - expected.maps["ab".index(name[-1])]).max() <= 1e-3
        assert values.sum() == pytest.approx(score, abs=1e-4)  # 49 numbers of six decimals
    assert len(lines) == 5 + 2 * height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pair.onnx", "a.ppm"), "usage: "),
        (("pair.onnx", "a.ppm", "pair.onnx"), "pair: pair.onnx: is not a binary PPM file"),
        (("a.ppm", "a.ppm", "b.ppm"), "pair: "),
        (("sized.onnx", "a.ppm", "b.ppm"), "invalid dimensions"),
    ],
)
def test_a_program_says_what_is_wrong(
    program: list[str], folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run(program, folder, *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr and done.stdout == ""
