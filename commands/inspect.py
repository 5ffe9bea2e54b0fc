"""``simmap inspect``: the whole contract of an artifact."""

from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.parameters import FILE

if TYPE_CHECKING:
    from simmap.engine.runtime.session import Session


@make_command("inspect", "simmap inspect models/efficientnet_lite0.onnx")
@click.argument("model", metavar="MODEL", type=FILE, help="Artifact (.onnx).")
def command(model: str, as_json: bool) -> None:
    """What an artifact says of itself: input, pooling, head, source, parity."""
    from dataclasses import asdict

    from simmap.engine.runtime.session import open_session

    from .shared.report import print_facts, print_json

    session = open_session(model, device="cpu", threads=1)
    if as_json:
        data = asdict(session.contract)
        data.pop("bias")
        more = {"has_bias": session.contract.bias is not None, "graph": session.graph}
        print_json({"model": str(session.path), **data, **more})
        return
    print_facts(_facts(session))


_REFERENCES = {
    "zero": "zero",
    "blank": "blank: parts are counted from those of a photo of the constant colour mean",
    "images": "images: parts are counted from the mean over photos",
}


def _facts(session: "Session") -> list[tuple[str, str]]:
    contract = session.contract
    spec = contract.input
    size = f"{spec.height} x {spec.width}" + (" by default, any other too" if spec.dynamic else "")
    crop = f", {spec.crop_fraction:g} of the shorter side" if spec.resize == "crop" else ""
    exponent = f", p = {contract.p:g}" if contract.p is not None else ""
    head = contract.head + (" with a bias" if contract.bias else "")
    if contract.rest == "image":
        head += ", what no place owns depends on the image"
    facts = [
        ("artifact", str(session.path)),
        ("source", ", ".join(f"{key} {value}" for key, value in contract.source.items())),
        ("input", f"uint8 {spec.colour.upper()}, {size} (height x width)"),
        ("resize", f"{spec.resize}{crop}, kernel {spec.kernel}"),
        ("mean", ", ".join(f"{v:g}" for v in spec.mean) + " (in the graph)"),
        ("std", ", ".join(f"{v:g}" for v in spec.std) + " (in the graph)"),
        (
            "tokens" if contract.pooling == "token" else "feature map",
            f"{contract.channels} x {contract.grid_height} x {contract.grid_width} (C x H x W)",
        ),
        ("pooling", contract.pooling + exponent),
        ("head", head),
        ("reference", _REFERENCES[contract.reference]),
        ("embedding", f"{contract.dimension} features"),
        ("precision", contract.precision),
        ("outputs", ", ".join(contract.outputs)),
        ("fingerprint", contract.fingerprint),
        ("graph", session.graph or "has no digest: the file was written by an older version"),
        ("made with", ", ".join(f"{key} {value}" for key, value in contract.versions.items())),
    ]
    for name, value in contract.fidelity.items():
        if not isinstance(value, dict):
            facts.append(("fidelity", f"{name.replace('_', ' ')} {value:.4g}"))
    for name, figures in contract.parity.items():
        if name == "rest":
            facts.append(("rest", f"{figures['share']:.0%} of a photo's similarity with itself, by no place"))
            continue
        facts.append(
            ("parity", f"{name}: at most {figures['absolute']:.2e}, relative {figures['relative']:.2e}")
        )
    return facts
