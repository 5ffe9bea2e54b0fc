"""The wheel: one name at its top, all data inside, and a command that works outside the checkout."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from common import PHOTOS, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git tracks and would track."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\n"):
        if name and (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder / "source"],
        capture_output=True,
        check=True,
    )
    return next(folder.glob("*.whl"))


def test_every_name_of_the_engine_can_be_imported() -> None:
    from simmap import engine

    for name in engine.__all__:
        assert getattr(engine, name).__module__.startswith("simmap.engine")


def test_the_wheel_puts_one_name_in_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"simmap"}
    for inside in (
        "simmap/cli.py",
        "simmap/engine/engine.py",
        "simmap/engine/figures/pair.py",
        "simmap/engine/py.typed",
        "simmap/export/exporter.py",
        "simmap/configs/engine.yaml",
        "simmap/models/efficientnet_lite0.onnx",
        "simmap/models/LICENSE.efficientnet-lite0",
        "simmap/models/photos/buddha_a.jpg",
        "simmap/server/page/index.html",
        "simmap/server/page/worker.js",
    ):
        assert inside in names
    assert not [name for name in names if "test" in name.lower() or name.endswith(".wasm")]


def test_the_installed_command_works_in_any_folder_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"], capture_output=True, check=True
    )
    script = tmp_path / "env" / "bin" / "simmap"
    done = subprocess.run(
        [script, "compare", PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert str(tmp_path / "env") in report["model"]
    assert (tmp_path / "similarity.png").stat().st_size > 10_000
    # what is not installed cannot have been imported
    for package in ("torch", "onnx"):
        tried = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
        assert tried.returncode != 0
    failed = subprocess.run(
        [script, "export", "--timm", "resnet18", "-o", "x.onnx"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "pip install 'simmap[export]'" in failed.stderr and failed.stderr.count("\n") == 1
