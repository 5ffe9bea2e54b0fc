"""``simmap index copy``: an index, to another place or kind."""

import click

from .shared.command import command as make_command
from .shared.parameters import INDEX


@make_command("copy", "simmap index copy photos.index 'postgresql://localhost/photos?table=photos'")
@click.argument("source", metavar="FROM", type=INDEX, help="Folder or URL of the index to copy.")
@click.argument("target", metavar="TO", type=INDEX, help="Folder or URL of its copy.")
def command(source: str, target: str, as_json: bool) -> None:
    """Copy all images of an index to another, and compare each with its copy.

    A copy that was interrupted goes on when the command is run again.
    """
    from simmap.engine.errors import printable
    from simmap.engine.index.copying import copy_index

    from .shared.progress import progress
    from .shared.report import print_json, print_line

    with progress("images written or compared") as on_progress:
        index, done = copy_index(source, target, on_progress=on_progress)
    if as_json:
        print_json({"index": index.name, "images": done.copied + done.kept, **vars(done)})
        return
    print_line(f"{printable(index.name)}: {done.copied} copied, {done.kept} kept, all compared")
