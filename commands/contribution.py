"""``simmap contribution``: how many features make a score."""

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import labels_option
from .shared.parameters import FILE, FOLDER
from .shared.sample_options import sample_options


@make_command("contribution", "simmap contribution --folder photos --pairs 1000 -o curve.png")
@click.argument(
    "pairs_file", required=False, metavar="[PAIRS.csv]", type=FILE, help="Columns a,b: two images a line."
)
@click.option("--folder", metavar="FOLDER", type=FOLDER, help="Sample pairs of one class from it instead.")
@sample_options(1000)
@labels_option
@output_options("Curve to write: PNG, SVG or PDF.", required=True)
@engine_options()
def command(
    pairs_file: str | None,
    folder: str | None,
    pairs: int,
    seed: int,
    labels: str | None,
    output: str,
    force: bool,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """How much of the score of similar images the largest features give."""
    from itertools import chain

    from simmap.engine.analysis.contribution import MARKED, contribution_curve
    from simmap.engine.dataset import read_pairs, sample_pairs
    from simmap.engine.engine import Engine
    from simmap.engine.figures.contribution import ContributionFigure
    from simmap.engine.figures.curve import check_curve

    from .shared.images import list_images
    from .shared.outputs import check_not_inputs
    from .shared.report import print_facts, print_json

    if (pairs_file is None) == (folder is None):
        raise click.UsageError("give PAIRS.csv or --folder")
    picture = check_curve(output, force=force)
    if pairs_file is not None:
        chosen = read_pairs(pairs_file)
    else:
        assert folder is not None
        chosen = sample_pairs(list_images(folder, labels)[0].items, pairs, seed=seed)
    options = choice.options()
    images = dict.fromkeys(chain.from_iterable(chosen))
    check_not_inputs([picture], [pairs_file, labels, *images, options.model, choice.config])
    curve = contribution_curve(Engine(options=options), chosen)
    figure = ContributionFigure(curve)
    figure.save(picture, force=force)
    if as_json:
        print_json({**figure.data(), "picture": str(picture)})
        return
    k = min(MARKED, len(curve.mean))
    low, high = curve.low[k - 1], curve.high[k - 1]
    facts = [("pairs", f"{len(curve.pairs)}, mean score {curve.scores.mean():.4f}")]
    if curve.left_out:
        facts.append(("left out", f"{curve.left_out} pairs of hardly any similarity"))
    facts.append(("share of the score", f"{k} of {len(curve.mean)} features give {curve.mean[k - 1]:.1%}"))
    facts.append(("80% of the pairs", f"between {low:.1%} and {high:.1%}"))
    facts.append(("picture", str(picture)))
    print_facts(facts)
