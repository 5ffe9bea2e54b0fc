"""``simmap contrast``: one query under several models."""

from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import labels_option
from .shared.parameters import COUNT, FILE, FOLDER, INDEX
from .shared.view_option import influence_option

if TYPE_CHECKING:
    from simmap.engine.decompose import View


def _refuse_old_spelling(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--models is spelled --model now, once per model: --model A.onnx --model B.onnx"
        )


@make_command("contrast", "simmap contrast --model avg.onnx --model max.onnx a.jpg b.jpg -o contrast.png")
@click.argument("query", metavar="QUERY", type=FILE, help="Image to ask for.")
@click.argument("images", nargs=-1, metavar="[IMAGE...]", type=FILE, help="Images to compare it with.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="M.onnx",
    type=FILE,
    help="Artifact; again for each further model, a row each, in order.",
)
@click.option(
    "--models", "old_models", hidden=True, is_eager=True, expose_value=False, callback=_refuse_old_spelling
)
@click.option(
    "--index-folder",
    "folder",
    metavar="FOLDER",
    type=FOLDER,
    help="Each model shows its own best of these images.",
)
@click.option(
    "--index",
    "index_names",
    multiple=True,
    metavar="INDEX",
    type=INDEX,
    help="Folder or URL of an index, whose model shows its own best of it; again for each further row.",
)
@click.option("-k", type=COUNT, metavar="COUNT", default=3, help="How many of them (default: 3).")
@click.option("--steps", metavar="0,1,3,...", help="Training step of each model, for the rows' titles.")
@labels_option
@influence_option
@output_options("Picture to write.", required=True)
@engine_options(model=False, draws=True)
def command(
    query: str,
    images: tuple[str, ...],
    models: tuple[str, ...],
    folder: str | None,
    index_names: tuple[str, ...],
    k: int,
    steps: str | None,
    labels: str | None,
    view: "View",
    output: str,
    force: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """One query under several models: checkpoints, poolings, training runs."""
    from itertools import zip_longest

    from simmap.engine.analysis.contrast import contrast, contrast_indexes
    from simmap.engine.engine import Engine
    from simmap.engine.figures.contrast import ContrastFigure
    from simmap.engine.index.opening import open_index

    from .shared.images import list_images
    from .shared.index_report import warn_of_recall
    from .shared.outputs import check_not_inputs, check_picture
    from .shared.report import print_json, print_line, print_table

    if bool(images) + (folder is not None) + bool(index_names) != 1:
        raise click.UsageError(
            "give images to compare the query with, --index-folder FOLDER, or --index INDEX for each model"
        )
    if not index_names and not models:
        raise click.UsageError("give --model M.onnx, once for each row")
    if index_names and models and len(index_names) != len(models):
        raise click.UsageError(
            f"there are {len(models)} --model for {len(index_names)} --index; give one each, in the same "
            "order, or no --model for those that made the indexes"
        )
    if labels is not None and folder is None:
        raise click.UsageError("--labels goes with --index-folder")
    names = None
    if steps is not None:
        names = [f"step {step.strip()}" for step in steps.split(",")]
    picture = check_picture(output, force=force)
    if index_names:
        indexes = [open_index(name) for name in index_names]
        settings = [choice.options(index, model=model) for index, model in zip_longest(indexes, models)]
        for index, options in zip(indexes, settings, strict=True):
            warn_of_recall(index)
            check_not_inputs([picture], [query, options.model, choice.config], index=index)
        engines = [Engine(options=options) for options in settings]
        result = contrast_indexes(engines, query, indexes, names=names, k=k, view=view)
    else:
        candidates = list(images)
        label_of_each = None
        if folder is not None:
            items = list_images(folder, labels)[0].items
            candidates = [item.path for item in items]
            if any(item.label is not None for item in items):
                label_of_each = [item.label for item in items]
        check_not_inputs([picture], [query, *candidates, *models, labels, choice.config])
        engines = [Engine(options=choice.options(model=model)) for model in models]
        best = None if folder is None else k
        result = contrast(engines, query, candidates, names=names, labels=label_of_each, k=best, view=view)
    figure = ContrastFigure(result, engines[0].options)
    figure.save(picture, force=force)
    if as_json:
        print_json({**figure.data(), "picture": str(picture)})
        return
    for row in result.rows:
        recall = "" if row.recall_at_1 is None else f"  recall@1 {row.recall_at_1:.4f}"
        same = "" if row.correlation is None else f"  maps correlate {row.correlation:.4f} with the row above"
        print_line(f"{row.name}{recall}{same}")
        print_table(("score", "label", "path"), [(c.score, c.label, c.image.path) for c in row.candidates])
    print_line(f"picture {picture}")
