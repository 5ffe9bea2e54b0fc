"""``simmap index build``: an index of a folder, made or brought up to date."""

import click

from .command import command as make_command
from .engine_options import EngineChoice, engine_options
from .index_parameters import labels_option, strict_option
from .parameters import FOLDER


@make_command("build", "simmap index build photos -o photos.index")
@click.argument(
    "folder", metavar="FOLDER", type=FOLDER, help="Images; the names of its sub-folders are labels."
)
@click.option(
    "-o", "--output", metavar="INDEX", type=FOLDER, required=True, help="Folder of the index to make."
)
@labels_option
@strict_option
@engine_options(decodes_fast=True)
def command(
    folder: str, output: str, labels: str | None, strict: bool, choice: EngineChoice, as_json: bool
) -> None:
    """Index a folder of images, or bring its index up to date; an interrupted build goes on."""
    from simmap.engine.dataset import find_images
    from simmap.engine.engine import Engine
    from simmap.engine.index.embedded import Index
    from simmap.engine.index.update import update_index

    from .index_report import print_update
    from .progress import progress

    items = find_images(folder, labels)
    engine = Engine(options=choice.options())
    index = Index.create(output, engine, folder)
    with progress("images") as on_progress:
        update = update_index(index, engine, items, prune=True, strict=strict, on_progress=on_progress)
    print_update(index, update, as_json=as_json)
