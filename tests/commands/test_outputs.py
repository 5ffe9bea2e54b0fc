"""An output is never an input, and two outputs are never one file, whatever ``--force`` says."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common import ARTIFACTS, PHOTOS, SAMPLES, Simmap, failed

AVG = ARTIFACTS / "avg.onnx"


@pytest.fixture
def folder(tmp_path: Path, simmap: Simmap) -> Path:
    """Photos in two classes, their index, a model, and files that name photos."""
    root = tmp_path / "cwd"
    for label, photos in {"a": PHOTOS.glob("*.jpg"), "b": SAMPLES.glob("*.png")}.items():
        (root / "photos" / label).mkdir(parents=True)
        for at, photo in enumerate(sorted(photos)):
            # By one suffix: OpenCV reads a file by its content.
            shutil.copy(photo, root / "photos" / label / f"{at}.png")
    shutil.copy(AVG, root / "model.png")
    (root / "labels.csv").write_text("path,label\na/0.png,x\na/1.png,x\n")
    (root / "pairs.png").write_text("a,b\nphotos/a/0.png,photos/a/1.png\n")
    (root / "options.png").write_text("threads: 1\n")
    assert simmap("index", "build", "photos", "-o", "ix", "--model", "model.png").returncode == 0
    (root / "link.png").symlink_to("photos/a/0.png")
    os.link(root / "photos" / "a" / "0.png", root / "hard.png")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


A, B = "photos/a/0.png", "photos/a/1.png"


@pytest.mark.parametrize(
    ("command", "outputs"),
    [
        (f"compare {A} {B} --model model.png --config options.png",
         [A, B, "./photos/../photos/a/0.png", "link.png", "hard.png", "model.png", "options.png"]),
        (f"search ix {A} --model model.png", [A, "model.png", "link.png"]),
        ("class photos/a --model model.png", [A, B, "model.png"]),
        ("class --index ix --label a", [A, "hard.png", "model.png"]),
        (f"contrast --model model.png {A} {B}", [A, B, "model.png"]),
        (f"contrast --model model.png {A} --index-folder photos", [B, "photos/b/0.png"]),
        (f"contrast {A} --index ix", [A, "model.png"]),
        ("contribution pairs.png --model model.png", [A, B, "pairs.png", "model.png"]),
        ("contribution --folder photos --model model.png", [A, B, "model.png"]),
        ("evaluate photos --faithfulness --against model.png", [A, "photos/b/0.png", "model.png"]),
        ("export --onnx model.png", ["model.png"]),
        ("pair model.png", ["model.png"]),
    ],
)  # fmt: skip
def test_an_output_that_is_an_input_is_refused(
    simmap: Simmap, folder: Path, command: str, outputs: list[str]
) -> None:
    if command.startswith(("contribution", "evaluate")):
        pytest.importorskip("matplotlib")
    before = contents(folder)
    for output in outputs:
        failed(simmap(*command.split(), "-o", output, "--force"), f"{output.removeprefix('./')}: is an input")
        assert contents(folder) == before


def test_an_image_or_a_file_of_an_index_is_no_output(simmap: Simmap, folder: Path) -> None:
    before = contents(folder)
    for command in (["search", "ix", A], ["class", "--index", "ix", "--label", "a"],
                    ["contrast", A, "--index", "ix"]):  # fmt: skip
        failed(simmap(*command, "-o", "photos/b/1.png", "--force"), "is an image of the index")
        failed(simmap(*command, "-o", "ix/new.png", "--force"), "ix/new.png: is inside the index")
    assert contents(folder) == before


@pytest.mark.parametrize("second", ["x.png", "./x.png", "photos/../x.png", "y.png"])
def test_two_outputs_that_are_one_file_are_refused(simmap: Simmap, folder: Path, second: str) -> None:
    if second == "y.png":
        (folder / "x.png").touch()
        (folder / "y.png").symlink_to("x.png")
    before = contents(folder)
    failed(
        simmap("compare", A, B, "-o", "x.png", "--maps", second, "--force"), "two outputs would be this file"
    )
    assert contents(folder) == before


def test_an_output_beside_its_inputs_is_written(simmap: Simmap, folder: Path) -> None:
    assert simmap("compare", A, B, "-o", "photos/a/new.png", "--maps", "photos/a/new.npz").returncode == 0
    assert simmap("search", "ix", A, "-o", "photos/found.png").returncode == 0


def test_removing_nothing_in_particular_removes_nothing(simmap: Simmap, folder: Path) -> None:
    failed(simmap("index", "remove", "ix", ""), "the path is empty", code=2)
    failed(simmap("index", "remove", "ix", "photos"), "this removes 4 images below photos; add --yes", code=2)
    both = simmap("index", "remove", "ix", "photos/a", "photos/b")
    failed(both, "2 images below photos/a and 2 images below photos/b", code=2)
    assert "images       4," in simmap("index", "info", "ix").stdout
    # A single image is what was asked for.
    assert "1 removed, 3 images" in simmap("index", "remove", "ix", A).stdout
    assert "2 removed, 1 images" in simmap("index", "remove", "ix", "photos/b", "--yes").stdout


@pytest.fixture
def on_a_terminal(folder: Path) -> Callable[[str], tuple[int, str]]:
    """Remove ``photos/b`` on a terminal and answer: exit code, and what the terminal shows."""

    def run(answer: str) -> tuple[int, str]:
        terminal, end = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "simmap.cli", "index", "remove", "ix", "photos/b"],
            cwd=folder, stdin=end, stdout=subprocess.DEVNULL, stderr=end,
        )  # fmt: skip
        os.write(terminal, f"{answer}\n".encode())
        code = process.wait(timeout=30)
        os.close(end)
        shown = os.read(terminal, 10_000).decode()
        os.close(terminal)
        return code, shown

    return run


def test_on_a_terminal_it_asks(simmap: Simmap, on_a_terminal: Callable[[str], tuple[int, str]]) -> None:
    code, shown = on_a_terminal("n")
    assert code == 1 and "Remove 2 images below photos/b from ix? [y/N]" in shown
    assert "ix: nothing was removed" in shown
    assert "images       4," in simmap("index", "info", "ix").stdout
    assert on_a_terminal("y")[0] == 0
    assert "images       2," in simmap("index", "info", "ix").stdout
