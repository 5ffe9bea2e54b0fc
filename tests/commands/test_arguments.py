"""Whatever the arguments are: an exit code, at most one line, and never a fault of ours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import ARTIFACTS, SAMPLES, Simmap, failed

AVG = ARTIFACTS / "avg.onnx"
LONG = 300 * "x"
PATHS = st.sampled_from(
    [str(AVG), "photos", "photos/a/1.png", "photos/b/1.png", "photos/nothing.jpg", "ix", "empty.npy",
     "one.npy", "zeros.npy", "text.csv", "options.yaml", "bad.yaml", "out.png", "out.npz", "", ".", LONG,
     f"{LONG}.png", "\udcff.jpg", "\x1b[31m.jpg", "line\nbreak.png", "a\0b.png", "-", "--", "x" * 5000]
)  # fmt: skip
NUMBERS = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "-1",
        "9" * 18,
        "9" * 5000,
        "²",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "",
        " ",
        "1.5",
        "0x10",
        "1_0",
    ]
)
TUPLES = st.lists(NUMBERS | st.sampled_from(["10", "-5", "200"]), max_size=5).map(",".join)
WORDS = st.text(max_size=5) | st.sampled_from(["cpu", "auto", "cuda:99", "avg", "fp32", "a", "b"])
FLAGS = {
    "compare photos/a/1.png photos/b/1.png": ["--maps", "--point", "--region", "--influence"],
    "search ix photos/a/1.png": ["--embedding", "-k", "--region", "--mask", "--compare-whole", "--per-class"],
    "search ix --embedding one.npy": ["-k", "--exclude-self"],
    "class photos/a -o out.png": ["--index", "--label", "--rest", "--influence"],
    "class --index ix --label a -o out.png": ["--rest"],
    "contrast --model MODEL photos/a/1.png photos/b/1.png -o out.png": ["--models", "--steps", "-k"],
    "contrast --model MODEL photos/a/1.png --index-folder photos -o out.png": ["--labels", "-k"],
    "contribution --folder photos -o out.png": ["--pairs", "--seed", "--labels"],
    "contribution text.csv -o out.png": ["--pairs"],
    "evaluate photos": ["--against", "--faithfulness", "--occlusion", "--pairs", "--seed", "--labels"],
    "inspect MODEL": [],
    "export --onnx MODEL -o out.onnx": ["--weights", "--p", "--size", "--mean", "--std", "--pool", "--resize",
                                        "--precision", "--crop-fraction", "--calibrate", "--conv-layer"],
    "index build photos -o new": ["--labels", "--strict", "--fast-decode"],
    "index add ix photos": ["--label", "--labels", "--strict"],
    "index remove ix photos/a/1.png": ["--yes"],
    "index info ix": [],
}  # fmt: skip
# What the options are meant for; NUMBERS and TUPLES hold what is nearly that.
GOOD = {
    "-k": NUMBERS, "--pairs": NUMBERS, "--seed": NUMBERS, "--scale": NUMBERS, "--p": NUMBERS,
    "--size": NUMBERS, "--crop-fraction": NUMBERS, "--point": TUPLES | st.just("5,5"),
    "--region": TUPLES | st.just("-5,0,50,50"),
    "--mean": TUPLES, "--std": TUPLES, "--steps": TUPLES, "--model": st.just(str(AVG)),
    "--config": st.sampled_from(["options.yaml", "bad.yaml"]), "--labels": st.just("text.csv"),
    "-o": st.sampled_from(["out.png", "photos/a/1.png", "ix", "ix/new.png", str(AVG), "text.csv"]),
}  # fmt: skip
SWITCHES = {
    "--force",
    "--influence",
    "--occlusion",
    "--json",
    "--no-contours",
    "--compare-whole",
    "--per-class",
    "--exclude-self",
    "--rest",
}
COMMON = ["-o", "--force", "--json", "--model", "--device", "--config", "--scale", "--unknown"]


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command that would do, with some arguments replaced or added by others, plausible ones and not."""
    command = draw(st.sampled_from(sorted(FLAGS)))
    values = PATHS | PATHS | NUMBERS | TUPLES | WORDS
    flags = st.sampled_from(COMMON + 2 * FLAGS[command])
    texts = [str(AVG) if text == "MODEL" else text for text in command.split()]
    if draw(st.integers(0, 3)) == 3:
        texts[draw(st.integers(1, len(texts) - 1))] = draw(values)
    for _ in range(draw(st.integers(0, 3))):
        flag = draw(flags)
        texts += [flag] if flag in SWITCHES else [flag, draw(GOOD.get(flag, values) | values)]
    return texts


@pytest.fixture
def folder(tmp_path: Path, simmap: Simmap) -> Path:
    """Files of every kind that an argument may name."""
    root = tmp_path / "cwd"
    for label in "ab":
        (root / "photos" / label).mkdir(parents=True)
        for number in "12":
            shutil.copy(SAMPLES / "box.png", root / "photos" / label / f"{number}.png")
    assert simmap("index", "build", "photos", "-o", "ix", "--model", AVG).returncode == 0
    (root / "empty.npy").touch()
    dimension = json.loads(simmap("index", "info", "ix", "--json").stdout)["dimension"]
    np.save(root / "one.npy", np.ones((1, dimension)))
    np.save(root / "zeros.npy", np.zeros((0, 3), np.float32))
    (root / "text.csv").write_text("path,label,a,b\n1.png,x,photos/a/1.png,photos/b/1.png\n")
    (root / "options.yaml").write_text(f"model: {AVG}\nthreads: 1\n")
    (root / "bad.yaml").write_text("threads: many\n")
    return root


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(texts=arguments())
def test_no_arguments_are_a_fault_of_ours(
    simmap: Simmap, folder: Path, tmp_path: Path, texts: list[str]
) -> None:
    if not (tmp_path / "fresh").exists():
        shutil.copytree(folder, tmp_path / "fresh")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "fresh", folder)
    done = simmap(*texts, SIMMAP_CACHE="")
    lines = done.stderr.split("\n")[:-1]
    assert done.returncode in (0, 1, 2), texts
    assert "report it" not in done.stderr and "Traceback" not in done.stderr, (texts, done.stderr)
    assert done.stderr.replace("\n", "").isprintable(), texts
    assert all(line.startswith(("simmap", "- ")) for line in lines), (texts, done.stderr)
    if done.returncode:
        errors = [line for line in lines if not line.startswith(("- ", "simmap: skipped"))]
        assert len(errors) == 1, (texts, done.stderr)
        assert done.stdout == "", texts
    assert done.stdout.replace("\n", "").isprintable(), texts
    assert ("--help" in done.stderr) == (done.returncode == 2), (texts, done.stderr)


def test_empty_arrays_and_numbers_that_cannot_be_are_named(simmap: Simmap, folder: Path) -> None:
    failed(simmap("search", "ix", "--embedding", "empty.npy"), "empty.npy: is no .npy file")
    failed(simmap("search", "ix", "--embedding", "zeros.npy"), "zeros.npy: holds no embeddings")
    failed(simmap("contribution", "--folder", "photos", "-o", "c.png", "--seed", "-1"), "--seed", code=2)
    failed(simmap("contribution", "--folder", "photos", "-o", "c.png", "--pairs", "0"), "--pairs", code=2)
    failed(simmap("compare", "a.png", "b.png", "--scale", "nan"), "scale is nan")
    failed(simmap("compare", LONG, "b.png"), "File name too long")


def test_negative_numbers_are_values_not_options(simmap: Simmap, folder: Path) -> None:
    query = "photos/a/1.png"
    for region in (["--region=-5,-5,100,100"], ["--region", "-5,-5,100,100"]):
        done = simmap("search", "ix", query, *region, "--json")
        assert json.loads(done.stdout)["region"]["boxes"] == [[-5, -5, 100, 100]]


def test_rows_of_an_embedding_file_are_told_apart(simmap: Simmap, folder: Path) -> None:
    one = np.load(folder / "one.npy")
    np.save(folder / "two.npy", np.concatenate([one, one]))
    done = json.loads(simmap("search", "ix", "--embedding", "two.npy", "--json").stdout)
    assert [query["query"] for query in done] == ["two.npy row 0", "two.npy row 1"]
    assert json.loads(simmap("search", "ix", "--embedding", "one.npy", "--json").stdout)["query"] == "one.npy"


def test_one_image_is_no_class(simmap: Simmap, folder: Path) -> None:
    (folder / "photos" / "a" / "2.png").unlink()
    failed(simmap("class", "photos/a", "-o", "c.png"), "a class needs at least two images; photos/a has 1")


def test_the_old_spelling_of_models_names_the_new_one(simmap: Simmap) -> None:
    done = simmap("contrast", "--models", "a.onnx", "b.onnx", "q.jpg", "i.jpg", "-o", "c.png")
    failed(done, "--model A.onnx --model B.onnx", code=2)
