"""The commands and the Python of the README and of ``docs`` are what the product takes."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from common import PHOTOS, ROOT, SAMPLES
from simmap.commands.shared.group import simmap

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:\S*[/ ])?simmap (.*)")  # with variables or a launcher before it
ENDS = ("|", ">", "2>", "&&", ";", "&")  # of a command, in a shell


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)


def shell_lines() -> Iterator[tuple[str, str]]:
    """Page and arguments of each command in a block."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if found := COMMAND.fullmatch(line.strip()):
                    yield page.name, found[1]


def mentions() -> Iterator[tuple[str, str]]:
    """Page and arguments of each command within a sentence, which may leave arguments out."""
    for page in PAGES:
        for text in re.findall(r"`simmap ([^`]*)`", page.read_text()):
            yield page.name, " ".join(text.split())


def split(text: str) -> list[str]:
    """The words of one command; what the shell would put in its place is a word."""
    words = shlex.split(re.sub(r"\$\([^)]*\)", "--model model.onnx", text), comments=True)
    return words[: min((words.index(end) for end in ENDS if end in words), default=len(words))]


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and its own arguments."""
    command: click.Command = simmap
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize(("page", "text"), list(shell_lines()))
def test_a_command_of_a_block_is_accepted(page: str, text: str) -> None:
    command, words = resolved(split(text))
    if "--help" not in words and not isinstance(command, click.Group):
        command.make_context("simmap", words)


@pytest.mark.parametrize(("page", "text"), list(mentions()))
def test_a_command_of_a_sentence_has_its_options(page: str, text: str) -> None:
    command, words = resolved(split(text))
    known = {"--help", "--version"}.union(*(one.opts + one.secondary_opts for one in command.params))
    assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known


def test_there_are_commands_to_check() -> None:
    assert len(list(shell_lines())) > 40 and len(list(mentions())) > 20


@pytest.mark.parametrize(
    "code",
    [block for page in PAGES for block in blocks(page, "python") if "simmap.engine" in block],
)
def test_a_program_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, photo in zip("abcd", sorted(SAMPLES.glob("*.jpg")), strict=False):
        shutil.copy(photo, tmp_path / f"{name}.jpg")
        shutil.copy(photo, photos)
    (tmp_path / "models").symlink_to(PHOTOS.parent)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<page>", "exec"), {})
    for picture in re.findall(r'save\("(.*?)"\)', code):
        assert (tmp_path / picture).stat().st_size > 10_000
