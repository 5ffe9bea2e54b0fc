"""``simmap class``: what the images of a class have in common."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.parameters import FOLDER, INDEX
from .shared.view_option import influence_option

if TYPE_CHECKING:
    from simmap.engine.decompose import View


@make_command("class", "simmap class photos/cat -o cat.png")
@click.argument("folder", required=False, metavar="[FOLDER]", type=FOLDER, help="Images of one class.")
@click.option(
    "--index",
    "index_name",
    metavar="INDEX",
    type=INDEX,
    help="Folder or URL of an index to take the members or the rest from.",
)
@click.option("--label", metavar="LABEL", help="Class of the index.")
@click.option("--rest", is_flag=True, help="Take off what they share with the rest of the index.")
@influence_option
@output_options("Picture to write.", required=True)
@engine_options(draws=True)
def command(
    folder: str | None,
    index_name: str | None,
    label: str | None,
    rest: bool,
    view: "View",
    output: str,
    force: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """What the images of a class have in common: each under its mean map with the others."""
    from simmap.engine.analysis.classes import class_maps
    from simmap.engine.engine import Engine
    from simmap.engine.errors import ConfigError, StoreError, printable
    from simmap.engine.figures.classes import ClassFigure
    from simmap.engine.index.opening import open_index

    from .shared.images import list_images
    from .shared.outputs import check_not_inputs, check_picture
    from .shared.report import print_json, print_line, print_table

    if (folder is None) == (label is None):
        raise click.UsageError("give a folder of one class, or --index and --label")
    if (label is not None or rest) != (index_name is not None):
        raise click.UsageError("--index goes with --label or --rest")
    picture = check_picture(output, force=force)
    index = None if index_name is None else open_index(index_name)
    if folder is not None:
        members = [item.path for item in list_images(folder)[0].items]
        name, where = Path(folder).resolve().name, printable(folder)
    else:
        assert index is not None
        assert label is not None
        members = [index.path_of(entry.id) for entry in index.entries(label)]
        name, where = label, f"the label {label!r} of {printable(index.name)}"
        if not members:
            raise StoreError(
                f"{printable(index.name)}: has no label {name!r}; see: "
                f"simmap index info {printable(index.name)}"
            )
    if len(members) < 2:
        raise ConfigError(f"a class needs at least two images; {where} has 1")
    options = choice.options(index)
    check_not_inputs([picture], [*members, options.model, choice.config], index=index)
    engine = Engine(options=options)
    outside = None
    if rest:
        assert index is not None
        index.check_model(engine)
        inside = {index.id_of(path) for path in members}
        _, outside = index.get([entry.id for entry in index.entries() if entry.id not in inside])
    maps = class_maps(engine, members, outside=outside, view=view)
    against = ", less what they share with the rest" if rest else ""
    figure = ClassFigure(maps, f"{name}: what {len(members)} images share{against}", engine.options)
    figure.save(picture, force=force)
    if as_json:
        print_json({"class": name, **figure.data(), "picture": str(picture)})
        return
    print_line(f"class {printable(name)}, {len(members)} images{against}")
    print_table(
        ("cohesion", "path"), [(image["cohesion"], image["path"]) for image in figure.data()["images"]]
    )
    print_line(f"picture {picture}")
