"""The command line: one thin function a command, heavy imports inside it.

Exit codes: 0 done; 2 wrong usage; 1 anything else, with one line on stderr that names the file or
field and the mend (``--debug`` for the traceback).
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from simmap.engine.pipeline import Engine

DEFAULT_PICTURE = "similarity.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    arguments = _parser().parse_args(argv)
    # OpenCV's own warnings would stand beside our one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    from simmap.engine.errors import SimmapError

    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except SimmapError as error:
        return _fail(error, str(error), arguments.debug)
    except KeyboardInterrupt as error:
        return _fail(error, "interrupted", arguments.debug)
    except BrokenPipeError:
        # The reader of our output has gone (`simmap ... | head`); nothing is wrong here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return _fail(error, "out of memory; use a smaller image, batch or model", arguments.debug)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(error, f"unexpected {told}; run again with --debug and report it", arguments.debug)
    return 0


def _fail(error: BaseException, line: str, debug: bool) -> int:
    if debug:
        raise error
    print(f"simmap: {' '.join(line.split())}", file=sys.stderr)
    return 1


def compare(arguments: argparse.Namespace) -> None:
    """``simmap compare``: the score of two images and the picture of where it comes from."""
    from simmap.engine.files import check_output
    from simmap.engine.render import check_format

    picture = check_output(arguments.output or DEFAULT_PICTURE, force=arguments.force)
    check_format(picture)
    maps = None if arguments.maps is None else check_output(arguments.maps, force=arguments.force)
    engine = _engine(arguments)
    pair = engine.compare(arguments.first, arguments.second)
    cell = None
    if arguments.point is not None:
        grid_height, grid_width = pair.images[0].parts.shape[:2]
        x, y = arguments.point
        cell = pair.images[0].geometry.cell_at(x, y, grid_height, grid_width)
    pair.save(picture, force=arguments.force, point=cell)
    if maps is not None:
        _save_maps(pair, maps, cell, force=arguments.force)
    if arguments.json:
        report: dict[str, Any] = {
            "score": pair.score,
            "residuals": list(pair.residuals),
            "maps": [values.tolist() for values in pair.maps],
            "model": str(engine.model),
            "fingerprint": engine.contract.fingerprint,
            "device": engine.device,
            "images": [
                {"path": photo.name, "height": photo.pixels.shape[0], "width": photo.pixels.shape[1]}
                for photo in pair.photos
            ],
            "picture": str(picture),
        }
        if cell is not None:
            report["point"] = {
                "x": arguments.point[0],
                "y": arguments.point[1],
                "cell": list(cell),
                "map": pair.point(0, *cell).tolist(),
            }
        _print_json(report)
        return
    print(f"cosine similarity  {pair.score:.4f}")
    if any(pair.residuals):
        print("of it by the bias  " + ", ".join(f"{value:.4f}" for value in pair.residuals))
    print(f"model              {engine.model.name} on {engine.device}")
    print(f"picture            {picture}")
    if maps is not None:
        print(f"maps               {maps}")


def _save_maps(pair: Any, path: Path, cell: tuple[int, int] | None, *, force: bool) -> None:
    """Write both maps, the score and the residuals to a NumPy archive."""
    import numpy as np

    from simmap.engine.files import replacing

    arrays = {"map_0": pair.maps[0], "map_1": pair.maps[1], "score": pair.score, "residuals": pair.residuals}
    if cell is not None:
        arrays["point"] = pair.point(0, *cell)
    with replacing(path, force=force) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def inspect(arguments: argparse.Namespace) -> None:
    """``simmap inspect``: the whole contract of an artifact."""
    from dataclasses import asdict

    from simmap.engine.session import open_session

    session = open_session(arguments.model, device="cpu", threads=1)
    contract = session.contract
    if arguments.json:
        data = asdict(contract)
        data.pop("bias")
        _print_json({"model": str(session.path), **data, "has_bias": contract.bias is not None})
        return
    spec = contract.input
    size = f"{spec.height} x {spec.width}" + (" by default, any other too" if spec.dynamic else "")
    crop = f", {spec.crop_fraction:g} of the shorter side" if spec.resize == "crop" else ""
    exponent = f", p = {contract.p:g}" if contract.p is not None else ""
    head = "affine" + (" with a bias" if contract.bias else "") if contract.head == "affine" else "none"
    rows = [
        ("artifact", str(session.path)),
        ("source", ", ".join(f"{key} {value}" for key, value in contract.source.items())),
        ("input", f"uint8 {spec.colour.upper()}, {size} (height x width)"),
        ("resize", f"{spec.resize}{crop}, kernel {spec.kernel}"),
        ("mean", ", ".join(f"{v:g}" for v in spec.mean) + " (in the graph)"),
        ("std", ", ".join(f"{v:g}" for v in spec.std) + " (in the graph)"),
        ("feature map", f"{contract.channels} x {contract.grid_height} x {contract.grid_width} (C x H x W)"),
        ("pooling", contract.pooling + exponent),
        ("head", head),
        ("embedding", f"{contract.dimension} features"),
        ("precision", contract.precision),
        ("outputs", ", ".join(contract.outputs)),
        ("fingerprint", contract.fingerprint),
        ("made with", ", ".join(f"{key} {value}" for key, value in contract.versions.items())),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")
    for name, figures in contract.parity.items():
        print(f"{'parity':12} {name}: at most {figures['absolute']:.2e}, relative {figures['relative']:.2e}")


def export(arguments: argparse.Namespace) -> None:
    """``simmap export``: a trained network to an artifact, through the gate."""
    from simmap.engine.errors import ExportError
    from simmap.export.recipe import load_recipe

    names = (
        "torchvision", "timm", "module", "onnx", "weights", "pool", "p", "conv_layer", "embedding", "size",
        "dynamic", "mean", "std", "colour", "resize", "kernel", "crop_fraction", "precision",
    )  # fmt: skip
    flags = {name: getattr(arguments, name) for name in names}
    # Before the heavy imports: a mistake in a recipe is told at once.
    recipe = load_recipe(None if arguments.recipe is None else Path(arguments.recipe), flags)
    try:
        from simmap.export.exporter import export as run
    except ImportError as error:
        raise ExportError(f"{error}; export needs more packages: pip install 'simmap[export]'") from error
    report = run(
        recipe,
        arguments.output,
        force=arguments.force,
        progress=lambda line: print(f"- {line}", file=sys.stderr),
    )
    if arguments.json:
        from dataclasses import asdict

        contract = asdict(report.contract)
        contract.pop("bias")
        checks = [{**asdict(check), "passed": check.passed} for check in report.checks]
        _print_json(
            {
                "path": str(report.path),
                "bytes": report.size,
                "nodes": report.nodes,
                "contract": contract,
                "checks": checks,
                "notes": list(report.notes),
            }
        )
        return
    print(f"{'output':24} {'images':16} {'batch':>5} {'absolute':>10} {'relative':>10} {'tolerance':>10}")
    for check in report.checks:
        print(
            f"{check.name:24} {check.images:16} {check.batch:>5} {check.absolute:>10.2e} "
            f"{check.relative:>10.2e} {check.tolerance:>10.0e}"
        )
    for note in report.notes:
        print(f"note: {note}")
    print(f"{report.path}: {report.size / 1e6:.1f} MB, {report.nodes} nodes")


def _engine(arguments: argparse.Namespace) -> "Engine":
    from simmap.engine.pipeline import Engine

    given = {
        name: getattr(arguments, name)
        for name in ("model", "device")
        if getattr(arguments, name, None) is not None
    }
    if arguments.config is not None:
        return Engine.from_config(arguments.config, **given)
    return Engine(**given)


def _print_json(data: Any) -> None:
    # ensure_ascii stays on: a terminal's encoding must not break a report with names in any script.
    print(json.dumps(data, indent=2))


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the help is."""
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class _Version(argparse.Action):
    """Look the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print ``simmap X.Y.Z``."""
        print(f"simmap {metadata.version('simmap')}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="simmap",
        description="Which regions make two images similar: exact similarity maps of embedding networks.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_compare(commands)
    _add_inspect(commands)
    _add_export(commands)
    return parser


def _add(commands: Any, function: Any, help_line: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        function.__name__,
        help=help_line,
        description=help_line,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--json", action="store_true", help="report as JSON on stdout")
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="artifact (.onnx); by default the one that ships")
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--config", help="YAML file of engine options, see configs/engine.yaml")


def _add_compare(commands: Any) -> None:
    parser = _add(
        commands,
        compare,
        "The cosine similarity of two images, and a picture of the regions that make it.",
        "simmap compare a.jpg b.jpg -o similarity.png",
    )
    parser.add_argument("first", metavar="A", help="image: JPEG, PNG, WebP, TIFF or BMP")
    parser.add_argument("second", metavar="B", help="image to compare it with")
    parser.add_argument("-o", "--output", help=f"picture to write (default: {DEFAULT_PICTURE})")
    parser.add_argument("--maps", metavar="OUT.npz", help="also write the maps as a NumPy archive")
    parser.add_argument(
        "--point",
        type=_point,
        metavar="x,y",
        help="pixel of A: also show what its cell matches in B",
    )
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")
    _add_engine_options(parser)


def _add_inspect(commands: Any) -> None:
    parser = _add(
        commands,
        inspect,
        "What an artifact says of itself: input, pooling, head, source, parity.",
        "simmap inspect models/efficientnet_lite0.onnx",
    )
    parser.add_argument("model", metavar="MODEL", help="artifact (.onnx)")


def _add_export(commands: Any) -> None:
    parser = _add(
        commands,
        export,
        "Turn a trained network into an artifact; nothing is written that differs from its source.",
        "simmap export --timm resnet50 --weights resnet50.pth -o resnet50.onnx",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="recipe; flags win over it")
    source = parser.add_argument_group("source (one)")
    source.add_argument("--torchvision", metavar="NAME", help="torchvision architecture")
    source.add_argument("--timm", metavar="NAME", help="timm architecture")
    source.add_argument(
        "--module", metavar="PACKAGE.MODULE:FACTORY", help="function that returns a torch.nn.Module"
    )
    source.add_argument("--onnx", metavar="FILE", help="existing ONNX graph")
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint: state dict, .safetensors, training checkpoint"
    )
    network = parser.add_argument_group("what to expose")
    network.add_argument(
        "--pool",
        choices=("avg", "max", "gem", "avgmax", "catavgmax"),
        help="pooling, instead of the network's own",
    )
    network.add_argument("--p", type=float, help="exponent of --pool gem (default: 3)")
    network.add_argument(
        "--conv-layer", metavar="NAME", help="feature map: a torch module, an ONNX tensor or node"
    )
    network.add_argument("--embedding", metavar="NAME", help="output, pooled, or an ONNX tensor to cut at")
    network.add_argument(
        "--precision", choices=("fp32", "fp16"), help="of the stored weights (default: fp32)"
    )
    image = parser.add_argument_group("input")
    image.add_argument("--size", help="224, or HxW")
    image.add_argument(
        "--dynamic", action="store_true", default=None, help="accept other heights and widths too"
    )
    image.add_argument("--mean", type=_triple, metavar="r,g,b", help="of x / 255")
    image.add_argument("--std", type=_triple, metavar="r,g,b", help="of x / 255")
    image.add_argument("--colour", choices=("rgb", "bgr"), help="channel order of the network (default: rgb)")
    image.add_argument(
        "--resize", choices=("squash", "crop", "letterbox"), help="how a photo becomes the input"
    )
    image.add_argument("--kernel", choices=("area", "linear", "cubic"), help="resampling (default: area)")
    image.add_argument(
        "--crop-fraction", type=float, metavar="F", help="share of the shorter side that crop keeps"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx", help="artifact to write")
    parser.add_argument("--force", action="store_true", help="overwrite it if it exists")


def _point(text: str) -> tuple[float, float]:
    values = _numbers(text, 2, "x,y")
    return values[0], values[1]


def _triple(text: str) -> tuple[float, float, float]:
    values = _numbers(text, 3, "r,g,b")
    return values[0], values[1], values[2]


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return values


if __name__ == "__main__":
    sys.exit(main())
