"""``simmap export``: a trained network to an artifact, through the gate."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.parameters import FILE, FOLDER, RGB

if TYPE_CHECKING:
    from simmap.export.exporter import Report


@make_command("export", "simmap export --timm resnet50 --weights resnet50.pth -o resnet50.onnx")
@click.argument(
    "recipe_file", required=False, metavar="[RECIPE.yaml]", type=FILE, help="Recipe; options win over it."
)
@click.option("--torchvision", metavar="NAME", help="Source: torchvision architecture.")
@click.option("--timm", metavar="NAME", help="Source: timm architecture.")
@click.option(
    "--module",
    metavar="PACKAGE.MODULE:FACTORY",
    help="Source: a function that returns a torch.nn.Module. This imports and runs PACKAGE.MODULE.",
)
@click.option("--onnx", metavar="FILE", type=FILE, help="Source: existing ONNX graph.")
@click.option(
    "--weights", metavar="FILE", type=FILE, help="Checkpoint: state dict, .safetensors, training checkpoint."
)
@click.option(
    "--pool",
    type=click.Choice(["avg", "max", "gem", "avgmax", "catavgmax"]),
    help="Pooling, instead of the network's own.",
)
@click.option("--p", type=float, metavar="P", help="Exponent of --pool gem (default: 3).")
@click.option("--conv-layer", metavar="NAME", help="Feature map: a torch module, an ONNX tensor or node.")
@click.option("--embedding", metavar="NAME", help="output, pooled, or an ONNX tensor to cut at.")
@click.option(
    "--grid", metavar="HxW", help="Cells of a class token's patches, such as 7x7 (default: one a patch)."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "fp16-cuda", "int8"]),
    help="Of the stored weights (default: fp32); fp16-cuda and int8 also compute in it.",
)
@click.option(
    "--calibrate",
    metavar="FOLDER",
    type=FOLDER,
    help="Photos for int8, like those of its use: a third calibrates, the others judge.",
)
@click.option(
    "--reference",
    metavar="[blank|zero|FOLDER]",
    help="What parts are counted from: a photo of the mean colour, zero, or the mean over a folder's photos "
    "(default: blank for a weight per place, else zero).",
)
@click.option("--size", metavar="SIZE", help="Of the input: 224, or HxW.")
@click.option("--dynamic", is_flag=True, default=None, help="Accept other heights and widths too.")
@click.option("--mean", type=RGB, metavar="r,g,b", help="Of x / 255.")
@click.option("--std", type=RGB, metavar="r,g,b", help="Of x / 255.")
@click.option(
    "--colour", type=click.Choice(["rgb", "bgr"]), help="Channel order of the network (default: rgb)."
)
@click.option(
    "--resize", type=click.Choice(["squash", "crop", "letterbox"]), help="How a photo becomes the input."
)
@click.option("--kernel", type=click.Choice(["area", "linear", "cubic"]), help="Resampling (default: area).")
@click.option("--crop-fraction", type=float, metavar="F", help="Share of the shorter side that crop keeps.")
@click.option("--pair", metavar="OUT.onnx", type=FILE, help="Also write its pair graph (see simmap pair).")
@click.option("--trust", is_flag=True, help="Run the code of a recipe's module, as --module does.")
@output_options("Artifact to write.", required=True)
def command(
    recipe_file: str | None,
    pair: str | None,
    trust: bool,
    output: str,
    force: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Turn a trained network into an artifact; nothing is written that differs from its source.

    The source is one of --torchvision, --timm, --module and --onnx, or in the recipe.
    """
    from simmap.engine.errors import ExportError
    from simmap.engine.files import check_output
    from simmap.export.recipe import load_recipe

    from .pair import pair_data, print_pair
    from .shared.images import list_images
    from .shared.outputs import check_not_inputs
    from .shared.report import print_json, print_step

    # Before the heavy imports: a mistake in a recipe is reported at once.
    recipe = load_recipe(None if recipe_file is None else Path(recipe_file), flags)
    photos = (
        [] if recipe.calibrate is None else [item.path for item in list_images(recipe.calibrate)[0].items]
    )
    photos += recipe.reference_photos()
    pair_path = None if pair is None else check_output(pair, force=force)
    check_not_inputs([Path(output), pair_path], [recipe_file, recipe.onnx, recipe.weights_path(), *photos])
    try:
        from simmap.export.exporter import export
        from simmap.export.pair import export_pair
    except ImportError as error:
        raise ExportError(f"{error}; export needs more packages: pip install 'simmap[export]'") from error
    # Whoever types --module has chosen the code that runs; a recipe may come from anybody.
    trusted = trust or flags["module"] is not None
    report = export(recipe, output, force=force, trust=trusted, progress=print_step)
    made = None
    if pair_path is not None:
        made = export_pair(report.path, pair_path, force=force, progress=print_step)
    if as_json:
        print_json(_data(report) | ({} if made is None else {"pair": pair_data(made)}))
        return
    _print(report)
    if made is not None:
        print_pair(made)


def _data(report: "Report") -> dict[str, Any]:
    from dataclasses import asdict

    contract = asdict(report.contract)
    contract.pop("bias")
    return {
        "path": str(report.path),
        "bytes": report.size,
        "nodes": report.nodes,
        "contract": contract,
        "checks": [{**asdict(check), "passed": check.passed} for check in report.checks],
        "notes": list(report.notes),
    }


def _print(report: "Report") -> None:
    from simmap.engine.errors import printable

    from .shared.report import print_line

    print_line(
        f"{'output':24} {'images':16} {'batch':>5} {'absolute':>10} {'relative':>10} {'tolerance':>10}"
    )
    for check in report.checks:
        print_line(
            f"{check.name:24} {check.images:16} {check.batch:>5} {check.absolute:>10.2e} "
            f"{check.relative:>10.2e} {check.tolerance:>10.0e}"
        )
    for name, value in report.contract.fidelity.items():
        if not isinstance(value, dict):
            print_line(f"int8 against fp32: {name.replace('_', ' ')} {value:.4g}")
    for note in report.notes:
        print_line(f"note: {note}")
    print_line(f"{printable(str(report.path))}: {report.size / 1e6:.1f} MB, {report.nodes} nodes")
