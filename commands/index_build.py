"""``simmap index build``: an index of images, made or brought up to date."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import label_level_option, labels_option, strict_option
from .shared.parameters import FOLDER, INDEX

if TYPE_CHECKING:
    from simmap.engine.dataset import LabelLevel
    from simmap.engine.index.update import Embed


@make_command("build", "simmap index build photos -o photos.index")
@click.argument(
    "source",
    metavar="SOURCE",
    type=FOLDER,
    help="Images: a folder or its URL, a glob, or a CSV or Parquet file of paths; sub-folders are labels.",
)
@click.option(
    "-o", "--output", metavar="INDEX", type=INDEX, required=True, help="Folder or URL of the index to make."
)
@labels_option
@label_level_option
@strict_option
@click.option(
    "--ray",
    "cluster",
    is_flag=False,
    flag_value="auto",
    metavar="[ADDRESS]",
    help="Embed on a Ray cluster: HOST:PORT, auto (this machine's, without ADDRESS) or local.",
)
@engine_options(decodes_fast=True)
def command(
    source: str,
    output: str,
    labels: str | None,
    label_level: "LabelLevel | None",
    strict: bool,
    cluster: str | None,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """Index images, or bring their index up to date; an interrupted build goes on."""
    from simmap.engine.engine import Engine
    from simmap.engine.index.opening import make_index
    from simmap.engine.index.store import about_of
    from simmap.engine.index.update import update_index

    from .shared.images import list_images
    from .shared.index_report import print_update
    from .shared.progress import progress

    listing, complete = list_images(source, labels, label_level, strict=strict)
    with (
        Engine(options=choice.options()) as engine,
        _embedding(cluster) as embed,
        progress("images") as on_progress,
    ):
        index = make_index(output, about_of(engine, listing.root))
        update = update_index(
            index,
            engine,
            listing.items,
            # Images below a folder that cannot be read today have not gone.
            prune=complete,
            strict=strict,
            on_progress=on_progress,
            embed=embed,
        )
    print_update(index, update, as_json=as_json)


@contextmanager
def _embedding(cluster: str | None) -> "Iterator[Embed | None]":
    """Where to embed; None is this machine."""
    if cluster is None:
        yield None
        return
    from simmap.engine.index.cluster import ray_cluster

    # Ray prints on standard output that a worker has died, which is the report's.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), ray_cluster(cluster) as embed:
        yield embed
