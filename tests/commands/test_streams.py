"""Standard output is ours alone and never fails silently; help needs no engine; the shell completes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from common import ROOT, Simmap
from simmap.commands.shared.group import LazyGroup
from simmap.commands.shared.group import simmap as group

COMMAND = [sys.executable, "-m", "simmap.cli"]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@needs_full
@pytest.mark.parametrize(
    "arguments", [["inspect", "MODEL"], ["inspect", "MODEL", "--json"], ["--help"], ["--version"]]
)
def test_a_full_output_is_one_line_and_exit_1(arguments: list[str]) -> None:
    texts = [str(ROOT / "models" / "efficientnet_lite0.onnx") if a == "MODEL" else a for a in arguments]
    with FULL.open("w") as full:
        done = subprocess.run([*COMMAND, *texts], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "simmap: standard output cannot be written: No space left on device\n"


def test_a_closed_output_is_one_line_and_exit_1() -> None:
    line = f"{sys.executable} -m simmap.cli --version >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("simmap: standard output is closed") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_stderr_the_exit_code_says_it(tmp_path: Path, redirection: str) -> None:
    line = f"{sys.executable} -m simmap.cli inspect none.onnx {redirection}"
    done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stream:
        done = subprocess.run([*COMMAND, "--help"], stdout=stream, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_c_code_prints_does_not_reach_standard_output(
    simmap: Simmap, photos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from simmap.engine.figures.pair import PairFigure

    libc = ctypes.CDLL(None)
    save = PairFigure.save

    def noisy(*arguments: object, **options: bool) -> None:
        libc.puts(b"libnoise warning: a line of mine")
        libc.fflush(None)
        save(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PairFigure, "save", noisy)
    done = simmap("compare", *photos)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("cosine similarity") and "libnoise" not in done.stdout


def commands(of: LazyGroup, *path: str) -> list[tuple[list[str], click.Command]]:
    """Every command below a group, with the words that ask for it."""
    found: list[tuple[list[str], click.Command]] = []
    context = click.Context(of)
    for name in of.list_commands(context):
        command = of.get_command(context, name)
        assert command is not None
        found.append(([*path, name], command))
        if isinstance(command, LazyGroup):
            found += commands(command, *path, name)
    return found


def test_help_and_version_need_no_engine() -> None:
    asked = [["--help"], ["-h"], *([*words, "--help"] for words, _ in commands(group)), ["--version"]]
    code = (
        "import sys, json\nfrom simmap.cli import main\n"
        f"for words in {asked!r}:\n"
        "    assert main(words) == 0, words\n"
        "    heavy = {'numpy', 'cv2', 'onnxruntime', 'yaml', 'torch', 'onnx', 'PIL'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
        "    assert words == ['--version'] or 'importlib.metadata' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("simmap 0.")


def test_each_command_shows_an_example_that_it_takes(simmap: Simmap) -> None:
    for words, command in commands(group):
        if isinstance(command, LazyGroup):
            continue
        example = f"simmap {' '.join(words)}"
        text = simmap(*words, "--help").stdout
        assert f"example: {example}" in text
        arguments = text.split("example: ")[1].split()[1 + len(words) :]
        command.make_context(example, arguments)  # raises UsageError for options that there are not


def test_the_groups_help_does_not_import_the_commands() -> None:
    code = (
        "import sys\nfrom simmap.cli import main\nmain(['--help'])\n"
        "assert 'simmap.commands.shared.group' in sys.modules\n"
        "assert 'simmap.commands.compare' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("simmap comp", ["plain,compare"]),
        ("simmap index re", ["plain,remove"]),
        ("simmap compare --ma", ["plain,--maps"]),
        ("simmap compare a", ["file,a"]),
        ("simmap class pho", ["dir,pho"]),
        ("simmap export --pool a", ["plain,avg", "plain,avgmax"]),
    ],
)
def test_the_shell_completes(simmap_process: Simmap, words: str, completions: list[str]) -> None:
    number = str(len(words.split()) - 1)
    done = simmap_process(_SIMMAP_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    assert done.stdout.splitlines() == completions and done.stderr == ""
