"""``simmap pair``: an artifact to one graph that explains a pair, for other runtimes."""

from typing import TYPE_CHECKING, Any

import click

from .shared.command import command as make_command
from .shared.command import output_options
from .shared.parameters import FILE

if TYPE_CHECKING:
    from simmap.export.pair import PairReport


@make_command("pair", "simmap pair model.onnx -o pair.onnx")
@click.argument("model", metavar="MODEL", type=FILE, help="Artifact (.onnx).")
@click.option("--points", is_flag=True, help="Also an output of what each place matches in the other image.")
@click.option("--photo", is_flag=True, help="Inputs are photos of any size, resized in the graph.")
@output_options("Pair graph to write.", required=True)
def command(model: str, points: bool, photo: bool, output: str, force: bool, as_json: bool) -> None:
    """Turn an artifact into one graph from two photos to their score and maps.

    It is plain ONNX, and equal to the engine. Runtimes for C++, C#, Java, JavaScript and phones run it.
    """
    from simmap.engine.errors import ExportError
    from simmap.engine.files import check_output

    from .shared.outputs import check_not_inputs
    from .shared.report import print_json, print_step

    check_not_inputs([check_output(output, force=force)], [model])
    try:
        from simmap.export.pair import export_pair
    except ImportError as error:
        raise ExportError(f"{error}; pair needs more packages: pip install 'simmap[export]'") from error
    report = export_pair(model, output, points=points, photo=photo, force=force, progress=print_step)
    if as_json:
        print_json(pair_data(report))
    else:
        print_pair(report)


def pair_data(report: "PairReport") -> dict[str, Any]:
    """What ``--json`` prints of a pair graph."""
    described = report.contract
    return {
        "path": str(report.path),
        "bytes": report.size,
        "opset": report.opset,
        "points": described.points,
        "photo": described.photo,
        "outputs": list(described.outputs),
        "fingerprint": described.contract.fingerprint,
        "parity": described.parity,
    }


def print_pair(report: "PairReport") -> None:
    """A line for each output and one for the file."""
    from simmap.engine.errors import printable

    from .shared.report import print_line

    for name, difference in report.contract.parity.items():
        print_line(f"{name:24} at most {difference:.2e} from the engine, on real photos")
    print_line(f"{printable(str(report.path))}: {report.size / 1e6:.1f} MB, opset {report.opset}")
