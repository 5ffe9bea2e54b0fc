"""``simmap search``: the most similar images of an index, and where the similarity comes from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import index_argument
from .shared.parameters import BOX, COUNT, FILE
from .shared.view_option import influence_option

if TYPE_CHECKING:
    from simmap.engine.decompose import View
    from simmap.engine.index.search import Found
    from simmap.engine.index.store import VectorStore
    from simmap.engine.types import Box


@make_command("search", "simmap search photos.index a.jpg -k 5 --region 40,60,200,150 -o results.png")
@index_argument
@click.argument("queries", nargs=-1, metavar="[QUERY...]", type=FILE, help="Images to search for.")
@click.option(
    "--embedding", metavar="FILE.npy", type=FILE, help="Search for the embeddings (D,) or (m, D) too."
)
@click.option("-k", type=COUNT, metavar="COUNT", default=3, help="How many results (default: 3).")
@click.option(
    "--region",
    "boxes",
    type=BOX,
    metavar="x,y,w,h",
    multiple=True,
    help="Rank by this part of the query, in pixels of the photo; several add up.",
)
@click.option(
    "--mask", metavar="M.png", type=FILE, help="A region as an image of the query's size, white inside."
)
@click.option("--compare-whole", is_flag=True, help="Show the whole image's results above.")
@click.option("--per-class", is_flag=True, help="The best image of each of the k best classes.")
@click.option("--exclude-self", is_flag=True, help="Leave the query's own file out.")
@influence_option
@output_options("Picture to write.")
@engine_options(draws=True)
def command(
    index_name: str,
    queries: tuple[str, ...],
    embedding: str | None,
    k: int,
    boxes: "tuple[Box, ...]",
    mask: str | None,
    compare_whole: bool,
    per_class: bool,
    exclude_self: bool,
    view: "View",
    output: str | None,
    force: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """The images of an index that are most similar to an image, or to a region of it."""
    from functools import partial

    from simmap.engine.engine import Engine
    from simmap.engine.figures.found import SearchFigure
    from simmap.engine.images.region import load_mask
    from simmap.engine.index.explain import explain
    from simmap.engine.index.opening import open_index
    from simmap.engine.index.search import search

    from .shared.index_report import warn_of_recall
    from .shared.outputs import check_not_inputs, check_picture
    from .shared.report import print_json, print_line

    region = bool(boxes) or mask is not None
    if not queries and embedding is None:
        raise click.UsageError("give an image to search for, or --embedding")
    if region and (len(queries) != 1 or embedding is not None):
        raise click.UsageError("--region and --mask need one image to search for")
    if view == "influence" and output is None:
        raise click.UsageError("--influence is drawn; give a picture to write with -o")
    if compare_whole and not region:
        raise click.UsageError("--compare-whole needs --region or --mask")
    picture = None if output is None else check_picture(output, force=force)
    index = open_index(index_name)
    warn_of_recall(index)
    options = choice.options(index)
    inputs = [*queries, embedding, mask, options.model, choice.config]
    check_not_inputs([picture], inputs, index=index)
    inside = None if mask is None else load_mask(mask)
    engine = Engine(options=options)
    searched = partial(search, engine, index, queries, k, per_class=per_class, exclude_self=exclude_self)
    found = searched(boxes=boxes, mask=inside) if queries else []
    if embedding is not None:
        index.check_model(engine)
        found += _search_file(index, embedding, k, per_class=per_class)
    whole = searched() if compare_whole else []
    if picture is not None:
        figure = SearchFigure(explain(engine, [*whole, *found], view=view), options=engine.options)
        figure.save(picture, force=force)
    if as_json:
        reports = SearchFigure(found).data()["queries"]
        for report, one in zip(reports, SearchFigure(whole).data()["queries"], strict=False):
            report["whole_image_results"] = one["results"]
        print_json(reports if len(reports) > 1 else reports[0])
        return
    _print_results([*whole, *found])
    if picture is not None:
        print_line(f"picture {picture}")


def _search_file(index: "VectorStore", path: str, k: int, *, per_class: bool) -> "list[Found]":
    """What is found for each embedding of a file, named by its row where there are several.

    Raises:
        ConfigError: the file is no array of embeddings, or holds none.
    """
    from dataclasses import replace

    from simmap.engine.errors import ConfigError, printable
    from simmap.engine.index.search import read_embeddings, search_embeddings

    embeddings = read_embeddings(path)
    if embeddings.size == 0:
        raise ConfigError(f"{printable(path)}: holds no embeddings, its shape is {embeddings.shape}")
    found = search_embeddings(index, embeddings, k, per_class=per_class, name=path)
    if len(found) == 1:
        return found
    return [replace(one, name=f"{path} row {row}") for row, one in enumerate(found)]


def _print_results(found: "Sequence[Found]") -> None:
    from simmap.engine.errors import printable

    from .shared.report import print_line, print_table

    for one in found:
        print_line(f"query {printable(one.name)}{'' if one.weights is None else ', ranked by the region'}")
        print_table(
            ("rank", "score", "region score", "label", "path"),
            [(hit.rank, hit.score, hit.region_score, hit.label, hit.path) for hit in one.hits],
        )
