"""The command line: an exit code, at most one line, nothing half done, and never a fault of ours."""

import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from every_kind import AVG, LONG, write_files
from fuzzing import fuzzed, trial
from hypothesis import strategies as st
from mutations import garbled, injured

from common import Simmap

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
    "compare photos/a/1.png photos/b/1.png": ["--maps", "--point", "--no-contours", "--region"],
    "search ix photos/a/1.png": ["--embedding", "-k", "--region", "--mask", "--compare-whole", "--per-class"],
    "search ix --embedding one.npy": ["-k", "--exclude-self"],
    "class photos/a -o out.png": ["--index", "--label", "--rest", "--influence"],
    "class --index ix --label a -o out.png": ["--rest"],
    "contrast --model MODEL photos/a/1.png photos/b/1.png -o out.png": ["--models", "--steps", "-k"],
    "contrast --model MODEL photos/a/1.png --index-folder photos -o out.png": ["--labels", "-k"],
    "contrast photos/a/1.png --index ix -o out.png": ["--index", "--labels", "-k", "--steps", "--model"],
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
    "index check ix": [],
    "inspect model.onnx": [],
    "pair model.onnx -o out.onnx": ["--points", "--photo"],
    "export recipe.yaml -o out.onnx": ["--weights", "--pool", "--trust", "--embedding"],
    "compare photos/a/1.png photos/b/2.png --model model.onnx -o out.png": ["--region", "--influence"],
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
    "--json",
    "--no-contours",
    "--compare-whole",
    "--per-class",
    "--exclude-self",
    "--rest",
    "--points",
    "--photo",
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


def spoil(draw: random.Random, root: Path) -> None:
    """Change one of the files that the commands read, or none."""
    if draw.randrange(3) == 0:
        return
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    path = draw.choice(paths)
    data = path.read_bytes()
    if path.suffix in (".csv", ".yaml"):
        path.write_bytes(garbled(draw, data.decode()).encode("utf-8", "surrogateescape"))
    else:
        path.write_bytes(injured(draw, data))


def contents(root: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def outputs_of(texts: list[str]) -> set[str]:
    """What a command may write: what follows ``-o`` or ``--maps``, and the index of the commands on one."""
    named = {value for flag, value in pairwise(texts) if flag in ("-o", "--maps")}
    index = {"ix", "new"} if texts[:1] == ["index"] else set()
    default = {"similarity.png"} if texts[:1] == ["compare"] else set()
    return {str(Path(name)) for name in named} | default | index


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seed") / "files"


@fuzzed(tries=200, texts=arguments())
def test_no_arguments_and_no_files_are_a_fault_of_ours(
    draw: random.Random, simmap: Simmap, tmp_path: Path, seed: Path, texts: list[str]
) -> None:
    check(draw, simmap, tmp_path / "cwd", seed, texts)


@fuzzed(tries=4, texts=arguments())
def test_neither_are_they_in_a_process(
    draw: random.Random, simmap_process: Simmap, tmp_path: Path, seed: Path, texts: list[str]
) -> None:
    if not any("\0" in text or len(text) > 10000 for text in texts):  # no process can be given these
        check(draw, simmap_process, tmp_path / "cwd", seed, texts)


def check(draw: random.Random, simmap: Simmap, root: Path, seed: Path, texts: list[str]) -> None:
    if not seed.exists():
        write_files(root, simmap)
        shutil.copytree(root, seed)
    shutil.rmtree(root)
    shutil.copytree(seed, root)
    spoil(draw, root)
    before, model = contents(root), AVG.read_bytes()
    with trial("command-line", **{"arguments.txt": repr(texts).encode()}, **changed(before, contents(seed))):
        done = simmap(*texts, SIMMAP_CACHE="")
        lines = done.stderr.split("\n")[:-1]
        assert done.returncode in (0, 1, 2), texts
        assert "report it" not in done.stderr and "Traceback" not in done.stderr, (texts, done.stderr)
        assert done.stderr.replace("\n", "").isprintable(), texts
        assert all(line.startswith(("simmap", "- ")) for line in lines), (texts, done.stderr)
        after = contents(root)
        written = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        allowed = outputs_of(texts)
        assert AVG.read_bytes() == model, texts
        if done.returncode:
            errors = [line for line in lines if not line.startswith(("- ", "simmap: skipped"))]
            assert len(errors) == 1, (texts, done.stderr)
            assert done.stdout == "", texts
            allowed &= {"ix", "new"}
        assert all({name, *map(str, Path(name).parents)} & allowed for name in written), (texts, written)
        assert done.stdout.replace("\n", "").isprintable(), texts
        assert ("--help" in done.stderr) == (done.returncode == 2), (texts, done.stderr)


def changed(files: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    """The files that are others, under names without a folder."""
    return {name.replace("/", "_"): data for name, data in files.items() if before[name] != data}
