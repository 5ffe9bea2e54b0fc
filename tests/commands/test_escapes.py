"""Names and contracts may hold escape sequences; none reaches the terminal, and each stays on its line."""

import json
import shutil
from pathlib import Path

import pytest

from common import ARTIFACTS, PHOTOS, SAMPLES, Simmap

EVIL = "\x1b]0;owned\x07\x1b[31m\nred\u202e"
SHOWN = repr(EVIL)[1:-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos whose folder, names and labels are evil, and a model of such a name and contract."""
    root = tmp_path / "cwd"
    photos = root / f"photos{EVIL}" / f"label{EVIL}"
    photos.mkdir(parents=True)
    for at, photo in enumerate(sorted(PHOTOS.glob("*.jpg"))):
        shutil.copy(photo, photos / f"{at}{EVIL}.jpg")
    (root / "other").mkdir()
    shutil.copy(SAMPLES / "home.jpg", root / "other")
    shutil.copy(ARTIFACTS / "avg.onnx", root / f"model{EVIL}.onnx")
    return root


def checked(simmap: Simmap, *arguments: object, code: int = 0) -> str:
    done = simmap(*arguments)
    assert done.returncode == code, done.stderr
    for text in (done.stdout, done.stderr):
        for line in text.split("\n"):
            assert line.isprintable(), line
            # An error's line breaks become spaces.
            assert "red" not in line or SHOWN in line or code, line
    assert code == 0 or done.stderr.count("\n") == 1, done.stderr
    return done.stdout + done.stderr


def test_no_escape_sequence_reaches_the_terminal(simmap: Simmap, folder: Path) -> None:
    photos, model = f"photos{EVIL}", f"model{EVIL}.onnx"
    one, two = (f"{photos}/label{EVIL}/{at}{EVIL}.jpg" for at in (0, 1))
    index = f"ix{EVIL}"
    options = ["--model", model]
    (folder / f"{photos}/broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert SHOWN in checked(simmap, "index", "build", photos, "-o", index, *options)
    assert SHOWN in checked(simmap, "index", "add", index, "other", "--label", f"added{EVIL}", *options)
    assert SHOWN in checked(simmap, "index", "info", index)
    assert SHOWN in checked(simmap, "inspect", model)
    assert SHOWN in checked(
        simmap, "compare", one, two, "-o", f"a{EVIL}.png", "--maps", f"a{EVIL}.npz", *options
    )
    assert SHOWN in checked(simmap, "search", index, one, "--region", "0,0,90,90", "-o", f"b{EVIL}.png")
    assert SHOWN in checked(simmap, "class", f"{photos}/label{EVIL}", "-o", f"c{EVIL}.png", *options)
    assert SHOWN in checked(
        simmap, "class", "--index", index, "--label", f"label{EVIL}", "-o", f"d{EVIL}.png"
    )
    assert SHOWN in checked(simmap, "contrast", "--model", model, one, two, "-o", f"e{EVIL}.png")
    (folder / f"{photos}/broken.jpg").unlink()
    assert SHOWN in checked(simmap, "evaluate", photos, *options)
    assert SHOWN in checked(simmap, "index", "remove", index, "other", "--yes")


def test_nor_do_those_of_errors(simmap: Simmap, folder: Path) -> None:
    for arguments in (
        ["compare", f"a{EVIL}.jpg", "b.jpg"],
        ["inspect", f"none{EVIL}.onnx"],
        ["index", "info", f"none{EVIL}"],
        ["search", f"none{EVIL}", "x.jpg"],
        ["class", f"none{EVIL}", "-o", "x.png"],
        ["evaluate", f"none{EVIL}"],
        ["export", f"none{EVIL}.yaml", "-o", "x.onnx"],
        ["compare", "a.jpg", "b.jpg", "-o", f"x{EVIL}.gif"],
    ):
        assert SHOWN[:10] in checked(simmap, *arguments, code=1)
    for arguments in (
        [f"x{EVIL}"],
        ["compare", "a", "b", f"--x{EVIL}"],
        ["compare", "a", "b", "--point", EVIL],
    ):
        assert SHOWN[:10] in checked(simmap, *arguments, code=2)


def test_a_contract_with_escape_sequences_is_printed_as_text(simmap: Simmap, folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(ARTIFACTS / "avg.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "simmap.contract"]
    contract = json.loads(entry.value)
    for field in ("source", "versions"):
        contract[field] = {f"key{EVIL}": f"value{EVIL}"}
    entry.value = json.dumps(contract)
    onnx.save(model, folder / "evil.onnx")
    assert f"value{SHOWN}" in checked(simmap, "inspect", "evil.onnx")
