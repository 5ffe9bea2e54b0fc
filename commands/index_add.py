"""``simmap index add``: more images, or changed ones."""

from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import index_argument, label_level_option, labels_option, strict_option
from .shared.parameters import FILE

if TYPE_CHECKING:
    from simmap.engine.dataset import LabelLevel


@make_command("add", "simmap index add photos.index more_photos")
@index_argument
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=FILE, help="Images, or sources as for build."
)
@click.option("--label", metavar="LABEL", help="Class of all these images.")
@labels_option
@label_level_option
@strict_option
@engine_options(decodes_fast=True)
def command(
    index_name: str,
    paths: tuple[str, ...],
    label: str | None,
    labels: str | None,
    label_level: "LabelLevel | None",
    strict: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """Add images to an index, or those of its images that have changed."""
    from simmap.engine.dataset import Item
    from simmap.engine.engine import Engine
    from simmap.engine.index.opening import open_index
    from simmap.engine.index.update import update_index
    from simmap.engine.listing import names_one

    from .shared.images import list_images
    from .shared.index_report import print_update
    from .shared.progress import progress

    index = open_index(index_name)
    items = []
    for path in paths:
        if names_one(path):
            items.append(Item(path, label))
        else:
            items += list_images(path, labels, label_level, strict=strict)[0].items
    if label is not None:
        items = [Item(item.path, label) for item in items]
    with Engine(options=choice.options(index)) as engine, progress("images") as on_progress:
        update = update_index(index, engine, items, strict=strict, on_progress=on_progress)
    print_update(index, update, as_json=as_json)
