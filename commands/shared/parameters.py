"""Types of the command line's parameters: each refuses what cannot be meant."""

import math

import click
from click.shell_completion import CompletionItem

MOST = 1_000_000_000  # of anything that is counted
COUNT = click.IntRange(1, MOST)
SEED = click.IntRange(0, 2**63 - 1)


class PathType(click.ParamType[str, str]):
    """The path of a file or a folder, which need not exist; completed by the shell."""

    def __init__(self, kind: str) -> None:
        """``kind``: what the shell offers, ``file`` (and folders on the way) or ``dir``."""
        self.name = kind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what no file system has."""
        if not value:
            self.fail("the path is empty", param, ctx)
        if "\0" in value:
            self.fail(f"{value!r} has a NUL character, which no path has", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete it."""
        return [CompletionItem(incomplete, type=self.name)]


class NumbersType(click.ParamType[tuple[float, ...], str]):
    """Some numbers with commas between them."""

    def __init__(self, form: str) -> None:
        """``form``: a name for each number, as ``x,y``."""
        self.name = form
        self._count = form.count(",") + 1

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """As many finite floats as the form has names."""
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self._count or not all(map(math.isfinite, numbers)):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return numbers


FILE, FOLDER = PathType("file"), PathType("dir")
INDEX = FOLDER  # or a URL, which no shell completes
POINT, BOX, RGB = NumbersType("x,y"), NumbersType("x,y,w,h"), NumbersType("r,g,b")
