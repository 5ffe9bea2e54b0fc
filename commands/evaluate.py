"""``simmap evaluate``: retrieval, agreement of two models, faithfulness of the maps."""

from typing import TYPE_CHECKING, Any

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import labels_option
from .shared.parameters import FILE, FOLDER
from .shared.sample_options import sample_options

if TYPE_CHECKING:
    from simmap.engine.dataset import Item
    from simmap.engine.engine import Engine
    from simmap.engine.figures.faithfulness import FaithfulnessFigure
    from simmap.engine.types import Array


@make_command("evaluate", "simmap evaluate photos --model full.onnx --against small.onnx")
@click.argument("folder", metavar="FOLDER", type=FOLDER, help="Labelled images: a sub-folder per class.")
@click.option("--against", metavar="M.onnx", type=FILE, help="A model that may take the first one's place.")
@click.option(
    "--faithfulness", is_flag=True, help="Does the score fall where the map says? Beside other methods; slow."
)
@click.option("--occlusion", is_flag=True, help="Also measure occlusion, which takes half as long again.")
@sample_options(50)
@labels_option
@output_options("Curve of --faithfulness to write: PNG, SVG or PDF.")
@engine_options()
def command(
    folder: str,
    against: str | None,
    faithfulness: bool,
    occlusion: bool,
    pairs: int,
    seed: int,
    labels: str | None,
    output: str | None,
    force: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """How well a model retrieves; whether another may take its place; whether its maps are true to it."""
    from simmap.engine.analysis.agreement import agreement
    from simmap.engine.analysis.retrieval import retrieval
    from simmap.engine.engine import Engine
    from simmap.engine.figures.curve import check_curve

    from .shared.images import list_images
    from .shared.outputs import check_not_inputs
    from .shared.report import print_json

    if occlusion and not faithfulness:
        raise click.UsageError("--occlusion goes with --faithfulness")
    if output is not None and not faithfulness:
        raise click.UsageError("-o is the curve of --faithfulness")
    picture = None if output is None else check_curve(output, force=force)
    items = list_images(folder, labels)[0].items
    paths, label_of_each = [item.path for item in items], [item.label for item in items]
    options = choice.options()
    check_not_inputs([picture], [*paths, labels, options.model, against, choice.config])
    engines = [Engine(options=options)]
    if against is not None:
        engines.append(Engine(options=choice.options(model=against)))
    report: dict[str, Any] = {"folder": folder, "models": []}
    embeddings = []
    for engine in engines:
        embeddings.append(_embeddings(engine, paths))
        figures = retrieval(embeddings[-1], label_of_each).data()
        report["models"].append({"model": str(engine.model), "device": engine.device, **figures})
    if against is not None:
        compared = agreement(engines[0], engines[1], paths, embeddings=embeddings, pairs=pairs, seed=seed)
        report["agreement"] = compared.data()
    if faithfulness:
        figure = _measured(engines[0], items, pairs, occlusion=occlusion, seed=seed)
        report["faithfulness"] = figure.data()
        if picture is not None:
            figure.save(picture, force=force)
            report["picture"] = str(picture)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _embeddings(engine: "Engine", paths: list[str]) -> "Array":
    """(n, D) of the images."""
    import numpy as np

    from .shared.progress import progress

    vectors = []
    with progress("images") as on_progress:
        for vector in engine.vectors(paths):
            vectors.append(vector.embedding)
            on_progress(len(vectors), len(paths))
    return np.array(vectors)


def _measured(
    engine: "Engine", items: "list[Item]", pairs: int, *, occlusion: bool, seed: int
) -> "FaithfulnessFigure":
    """Faithfulness on sampled pairs, and on composites of them and images of other classes."""
    from simmap.engine.analysis.composites import composites
    from simmap.engine.analysis.faithfulness import faithfulness
    from simmap.engine.dataset import sample_pairs, with_distractors
    from simmap.engine.figures.faithfulness import FaithfulnessFigure

    from .shared.progress import progress

    sampled = sample_pairs(items, pairs, seed=seed)
    with progress("pairs") as on_progress:
        curves = faithfulness(engine, sampled, occlusion=occlusion, seed=seed, on_progress=on_progress)
    triples = with_distractors(items, sampled, seed=seed)
    if not triples:
        return FaithfulnessFigure(curves)
    with progress("composites") as on_progress:
        return FaithfulnessFigure(curves, composites(engine, triples, seed=seed, on_progress=on_progress))


def _print(report: dict[str, Any]) -> None:
    from simmap.engine.errors import printable

    from .shared.report import print_line

    for model in report["models"]:
        images = f"{model['queries']} queries of {model['classes']} classes, {model['images']} images"
        print_line(f"{printable(model['model'])}: {images}")
        for name in ("recall_at_1", "recall_at_5", "map_at_r"):
            print_line(f"  {name:32} {model[name]:.4f}")
    for name, value in report.get("agreement", {}).items():
        print_line(f"  {name:32} {value:.6g}")
    if "faithfulness" in report:
        _print_faithfulness(report["faithfulness"])
    if "picture" in report:
        print_line(f"picture {report['picture']}")


def _print_faithfulness(report: dict[str, Any]) -> None:
    from simmap.engine.analysis.orders import NAMES

    from .shared.report import print_line, print_table

    removed = {"blur": "blurred", "mean": "in the mean colour"}
    for baseline, orders in report["baselines"].items():
        print_line(f"areas under the score of {report['pairs']} pairs, removed blocks {removed[baseline]}:")
        columns = ("order", "deletion", "insertion", "difference", "95 % from", "to", "beats the map")
        rows = []
        for order, one in orders.items():
            numbers = (one["deletion"], one["insertion"], one["difference"], *one["interval"])
            rows.append((NAMES[order], *numbers, "-" if order == "map" else f"{one['beats_map']:.0%}"))
        print_table(columns, rows)
        for word in ("better", "worse"):
            names = [f"{NAMES[order]} ({orders[order]['gain']:+.4f})" for order in report[word][baseline]]
            print_line(f"{word} than the map, at 95 %: {', '.join(names) or 'none'}")
    if "composites" in report:
        made = report["composites"]
        print_line(f"composites of two photos whose matching half is the hotter one, of {made['count']}:")
        hotter = made["matching_half_is_hotter"].items()
        print_table(("order", "share"), [(NAMES[order], share) for order, share in hotter])
    for order, reason in report["skipped"].items():
        print_line(f"not measured: {NAMES[order]} ({reason})")
