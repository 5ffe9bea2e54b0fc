"""``simmap index remove``: images, by their files or folders, which need not exist any more."""

import sys

import click

from .shared.command import command as make_command
from .shared.index_parameters import index_argument
from .shared.parameters import FILE


@make_command("remove", "simmap index remove photos.index photos/cat --yes")
@index_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=FILE, help="Images or folders.")
@click.option("--yes", is_flag=True, help="Remove whole folders without asking.")
def command(index_name: str, paths: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove images from an index; the files stay.

    All images of a folder are removed after a question on a terminal, or with --yes.
    """
    from simmap.engine.errors import StoreError, printable
    from simmap.engine.index.opening import open_index

    from .shared.report import print_json, print_line

    index = open_index(index_name)
    chosen: set[str] = set()
    folders: dict[str, int] = {}
    for path in paths:
        below = index.ids_below(path)
        if not below:
            raise StoreError(
                f"{printable(index.name)}: has no image {printable(path)}; "
                "see its paths with: simmap index info --json"
            )
        if below != [index.id_of(path)]:
            folders[path] = len(below)
        chosen.update(below)
    if folders and not yes:
        _confirm(index.name, folders)
    removed = index.delete(sorted(chosen))
    if as_json:
        print_json({"index": index.name, "images": len(index), "removed": removed})
        return
    print_line(f"{printable(index.name)}: {removed} removed, {len(index)} images")


def _confirm(index_name: str, folders: dict[str, int]) -> None:
    """Ask on a terminal whether all images of some folders may go.

    Raises:
        UsageError: there is no terminal to ask on.
        StoreError: the answer is no.
    """
    from simmap.engine.errors import StoreError, printable

    counts = " and ".join(
        f"{number} image{'s' if number > 1 else ''} below {printable(path)}"
        for path, number in folders.items()
    )
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"this removes {counts}; add --yes to do so")
    if not click.confirm(f"Remove {counts} from {printable(index_name)}?", err=True):
        raise StoreError(f"{printable(index_name)}: nothing was removed")
