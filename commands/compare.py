"""``simmap compare``: the score of two images and the picture of where it comes from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.parameters import BOX, FILE, POINT
from .shared.view_option import influence_option

if TYPE_CHECKING:
    from simmap.engine.decompose import View
    from simmap.engine.results import Pair
    from simmap.engine.types import Box


@make_command("compare", "simmap compare a.jpg b.jpg -o similarity.png")
@click.argument("first", metavar="A", type=FILE, help="Image: JPEG, PNG, WebP, TIFF or BMP.")
@click.argument("second", metavar="B", type=FILE, help="Image to compare it with.")
@output_options("Picture to write (default: similarity.png).", default="similarity.png")
@click.option("--maps", metavar="OUT.npz", type=FILE, help="Also write the maps as a NumPy archive.")
@click.option("--point", type=POINT, metavar="x,y", help="Pixel of A: also show what its cell matches in B.")
@click.option(
    "--region",
    "boxes",
    type=BOX,
    metavar="x,y,w,h",
    multiple=True,
    help="Report contribution and influence of this part of A, in pixels of the photo; several add up.",
)
@influence_option
@engine_options(draws=True)
def command(
    first: str,
    second: str,
    output: str,
    force: bool,
    maps: str | None,
    point: tuple[float, float] | None,
    boxes: "tuple[Box, ...]",
    view: "View",
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """The cosine similarity of two images, and a picture of the regions that make it."""
    from simmap.engine.engine import DEFAULT_MODEL, Engine
    from simmap.engine.figures.pair import PairFigure
    from simmap.engine.files import check_output

    from .shared.outputs import check_not_inputs, check_picture
    from .shared.report import print_facts, print_json

    picture = check_picture(output, force=force)
    archive = None if maps is None else check_output(maps, force=force)
    options = choice.options()
    check_not_inputs([picture, archive], [first, second, options.model or DEFAULT_MODEL, choice.config])
    engine = Engine(options=options)
    pair = engine.compare(first, second)
    cell = None
    if point is not None:
        cell = pair.images[0].geometry.cell_at(*point, *pair.images[0].parts.shape[:2])
    figure = PairFigure(pair, cell, engine.options, view, boxes)
    data = figure.data()
    figure.save(picture, force=force)
    if archive is not None:
        _save_maps(pair, archive, cell, force=force)
    if as_json:
        report: dict[str, Any] = {
            **data,
            "model": str(engine.model),
            "fingerprint": engine.contract.fingerprint,
            "device": engine.device,
            "picture": str(picture),
        }
        if point is not None:
            report["point"] |= {"x": point[0], "y": point[1]}
        print_json(report)
        return
    facts = [("cosine similarity", f"{pair.score:.4f}")]
    if any(pair.residuals):
        facts.append(("of it by no place", ", ".join(f"{value:.4f}" for value in pair.residuals)))
    if boxes:
        region = data["region"]
        facts.append(("region's contribution", f"{region['contribution']:.4f}"))
        facts.append(("region's influence", f"{region['influence']:+.4f}"))
    facts.append(("model", f"{engine.model.name} on {engine.device}"))
    facts.append(("picture", str(picture)))
    if archive is not None:
        facts.append(("maps", str(archive)))
    print_facts(facts)


def _save_maps(pair: "Pair", path: Path, cell: tuple[int, int] | None, *, force: bool) -> None:
    """Write both maps, their influence, the score and the residuals to a NumPy archive."""
    import numpy as np

    from simmap.engine.files import replacing

    arrays: dict[str, Any] = {
        "map_0": pair.maps[0], "map_1": pair.maps[1],
        "influence_0": pair.influence[0], "influence_1": pair.influence[1],
        "score": pair.score, "residuals": pair.residuals,
    }  # fmt: skip
    if cell is not None:
        arrays["point"] = pair.point(0, *cell)
    with replacing(path, force=force) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
