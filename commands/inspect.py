"""``simmap inspect``: the whole contract of an artifact."""

from typing import TYPE_CHECKING, Any

import click

from .shared.command import command as make_command
from .shared.parameters import FILE

if TYPE_CHECKING:
    from simmap.engine.contract import Contract
    from simmap.engine.pair import PairContract


@make_command("inspect", "simmap inspect models/efficientnet_lite0.onnx")
@click.argument("model", metavar="MODEL", type=FILE, help="Artifact (.onnx).")
def command(model: str, as_json: bool) -> None:
    """What an artifact or a pair graph says of itself: input, pooling, head, source, parity."""
    from simmap.engine.errors import PairGraphError
    from simmap.engine.runtime.session import open_session, read_pair

    from .shared.report import print_facts, print_json

    try:
        session = open_session(model, device="cpu", threads=1)
        contract, digest, pair = session.contract, session.graph, None
    except PairGraphError:
        pair = read_pair(model)
        contract, digest = pair.contract, None
    if as_json:
        if pair is None:
            print_json({"model": model, **_contract_data(contract), "graph": digest})
        else:
            print_json({"model": model, **_pair_data(pair)})
        return
    print_facts(_facts(model, contract, digest) if pair is None else _pair_facts(model, pair))


def _contract_data(contract: "Contract") -> dict[str, Any]:
    from dataclasses import asdict

    data = asdict(contract)
    data.pop("bias")
    return {**data, "has_bias": contract.bias is not None}


def _pair_data(pair: "PairContract") -> dict[str, Any]:
    facts = {"points": pair.points, "photo": pair.photo, "outputs": list(pair.outputs), "parity": pair.parity}
    return {"pair": facts, **_contract_data(pair.contract)}


_REFERENCES = {
    "zero": "zero",
    "blank": "blank: parts are counted from those of a photo of the constant colour mean",
    "images": "images: parts are counted from the mean over photos",
}


def _pair_facts(model: str, pair: "PairContract") -> list[tuple[str, str]]:
    contract, spec = pair.contract, pair.contract.input
    size = f"{spec.height} x {spec.width}"
    takes = f"{size} (height x width)" + (" or any other size" if spec.dynamic else "")
    if pair.photo:
        takes = f"photos of any size, which it resizes to {size} (height x width)"
    largest = max(pair.parity.values(), default=0.0)
    described = ("artifact", "input", "outputs", "graph", "parity")
    return [
        ("pair graph", model),
        ("inputs", f"a, b: uint8 {spec.colour.upper()}, {takes}"),
        ("outputs", ", ".join(pair.outputs)),
        ("parity", f"with the engine on real photos: at most {largest:.2e}"),
        *(fact for fact in _facts(model, contract, None) if fact[0] not in described),
    ]


def _facts(model: str, contract: "Contract", digest: str | None) -> list[tuple[str, str]]:
    spec = contract.input
    size = f"{spec.height} x {spec.width}" + (" by default, any other too" if spec.dynamic else "")
    crop = f", {spec.crop_fraction:g} of the shorter side" if spec.resize == "crop" else ""
    exponent = f", p = {contract.p:g}" if contract.p is not None else ""
    head = contract.head + (" with a bias" if contract.bias else "")
    if contract.rest == "image":
        head += ", what no place owns depends on the image"
    facts = [
        ("artifact", model),
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
        ("graph", digest or "has no digest: the file was written by an older version"),
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
