"""``simmap index build``: an index of a folder, made or brought up to date."""

from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import label_level_option, labels_option, strict_option
from .shared.parameters import FOLDER, INDEX

if TYPE_CHECKING:
    from simmap.engine.dataset import LabelLevel


@make_command("build", "simmap index build photos -o photos.index")
@click.argument(
    "folder", metavar="FOLDER", type=FOLDER, help="Images; the names of its sub-folders are labels."
)
@click.option(
    "-o", "--output", metavar="INDEX", type=INDEX, required=True, help="Folder or URL of the index to make."
)
@labels_option
@label_level_option
@strict_option
@engine_options(decodes_fast=True)
def command(
    folder: str,
    output: str,
    labels: str | None,
    label_level: "LabelLevel | None",
    strict: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """Index a folder of images, or bring its index up to date; an interrupted build goes on."""
    from simmap.engine.engine import Engine
    from simmap.engine.index.opening import make_index
    from simmap.engine.index.store import about_of
    from simmap.engine.index.update import update_index

    from .shared.images import list_images
    from .shared.index_report import print_update
    from .shared.progress import progress

    items, complete = list_images(folder, labels, label_level, strict=strict)
    with Engine(options=choice.options()) as engine, progress("images") as on_progress:
        index = make_index(output, about_of(engine, folder))
        # Images below a folder that cannot be read today have not gone.
        update = update_index(index, engine, items, prune=complete, strict=strict, on_progress=on_progress)
    print_update(index, update, as_json=as_json)
