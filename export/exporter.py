"""From a recipe to an artifact on the disk, through the gate."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from simmap.engine.contract import (
    GRAPH_KEY,
    MAPS_KEY,
    OPTIONAL_KEY,
    Contract,
    InputSpec,
    Precision,
    encode_bias,
)
from simmap.engine.errors import ConfigError, ExportError, printable
from simmap.engine.files import check_output, replacing
from simmap.engine.runtime.fingerprint import graph_digest
from simmap.engine.runtime.session import open_session
from simmap.engine.types import Triple

from . import gate, relative
from .draft import Draft
from .gate import Check
from .precision import float16
from .precision.fidelity import fidelity, shortfalls
from .precision.int8 import candidates
from .recipe import Recipe
from .sources.source import Source, open_source
from .surgery.exposing import expose
from .surgery.fingerprint import fingerprint
from .surgery.maps import map_graph
from .surgery.optional import split

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Report:
    """What an export made.

    Attributes:
        path: the artifact.
        contract: what it says of itself.
        checks: every comparison of the gate.
        notes: choices that a user should know of.
        nodes: operators in the graph.
        size: bytes of the file.
    """

    path: Path
    contract: Contract
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    nodes: int
    size: int


def export(
    recipe: Recipe,
    output: str | Path,
    *,
    force: bool = False,
    trust: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Build, expose, check and write one artifact.

    Args:
        recipe: the network and its preprocessing.
        output: the ``.onnx`` file to write.
        force: overwrite it if it exists.
        trust: run the code of ``recipe.module``. Nothing else in a recipe, a checkpoint or an ONNX file runs
            code.
        progress: called with one line at each step.

    Raises:
        ExportError: the network cannot be exposed, or the artifact failed the gate; no file is
            written and an old one stays.
        OutputError: ``output`` cannot be written.
        ConfigError: the recipe names a ``module`` and ``trust`` is false, or its weights or photos are
            unavailable.
        ImageError: a photo of ``calibrate`` cannot be read.
    """
    output = check_output(output, force=force)
    if recipe.module is not None:
        if not trust:
            raise ConfigError(
                f"module: {printable(recipe.module)} would run that module's code; if you trust it, add "
                "--trust (trust=True)"
            )
        progress(f"running code: the module {recipe.module}")
    try:
        return _export(recipe, output, force, progress)
    except SystemExit as error:  # of a module's code: never a success
        raise ExportError(f"{recipe.name}: its code ends the program; nothing was written") from error


def _export(recipe: Recipe, output: Path, force: bool, progress: Callable[[str], None]) -> Report:
    progress(f"building {recipe.kind} {recipe.name}")
    source = open_source(recipe)
    progress("looking for the feature map and its pooling")
    exposure = source.exposure()
    spec, notes = _input_spec(recipe, source)
    notes = [*source.notes, *exposure.notes, *notes]
    if not exposure.has_head and exposure.pooled_scale != 1:
        notes.append(
            f"the source's pooled feature is {exposure.pooled_scale:g} times this one; cosines agree"
        )
    progress(
        f"{'feature map' if exposure.tokens is None else 'tokens'} {exposure.conv!r} "
        f"{' x '.join(map(str, exposure.shape))}, pooling {exposure.pooling}, "
        f"head {exposure.head}"
    )
    if recipe.precision == "int8" and exposure.tokens is not None:
        raise ExportError(
            "precision int8 quantises convolutions, and a transformer has one, for its patches, so nothing "
            "would be gained; use precision fp16 or fp16-cuda"
        )
    reference = source.reference(exposure)
    kind = relative.kind_of(recipe, exposure)
    if kind != "zero":
        exposure, reference = relative.with_parts(exposure, reference)
        progress(f"parts will be counted from {relative.DESCRIPTIONS[kind]}")
        if recipe.reference is None:
            notes.append(
                f"each place has its own weights, so parts are counted from {relative.DESCRIPTIONS[kind]}; "
                "--reference zero changes that"
            )
    maps = map_graph(exposure, dynamic=spec.dynamic)
    exact = Draft(expose(source.graph, exposure, spec), maps, exposure, spec, "fp32")
    progress("checking against the source at batch 1 and 3, on random and on real images")
    # What is quantised is the float32 graph, so that is the one that must agree with the source.
    draft = _in_float(exact, "fp32" if recipe.precision == "int8" else recipe.precision)
    checks = []
    if draft.precision == "fp16-cuda":
        rounded = exact.stored(float16.rounded(exact.model), draft.precision)
        checks += [replace(c, images=f"{c.images}, rounded") for c in gate.check(rounded, reference)]
    checks += gate.check(draft, reference)
    gate.require(checks, precision=draft.precision)
    if recipe.precision == "int8":
        draft, contract, checks = _quantized(draft, checks, source, recipe, progress)
    else:
        draft, checks = _counted(draft, checks, recipe)
        contract = _contract(draft, source, checks, recipe)
    notes += _rest_notes(contract)
    progress(f"writing {output}")
    with replacing(output, force=force) as temporary:
        _save(draft, contract, temporary)
        open_session(temporary, device="cpu", threads=1, optional=True)
    nodes = len(split(draft.model)[0].graph.node)
    return Report(output, contract, tuple(checks), tuple(notes), nodes, output.stat().st_size)


def _in_float(exact: Draft, precision: Precision) -> Draft:
    """A float32 draft in one of the float precisions."""
    model = float16.compute(exact.model) if precision == "fp16-cuda" else exact.model
    if precision != "fp32":
        float16.store(model)
    return exact.stored(model, precision)


def _quantized(
    full: Draft,
    full_checks: list[Check],
    source: Source,
    recipe: Recipe,
    progress: Callable[[str], None],
) -> tuple[Draft, Contract, list[Check]]:
    """The fastest int8 copy of a float32 draft that is as near to it as the recipe's fidelity asks.

    Raises:
        ExportError: none is.
    """
    calibration, held_out = recipe.split_photos()
    progress(f"calibrating on {len(calibration)} photos of {recipe.calibrate}")
    missed: list[str] = []
    with TemporaryDirectory() as folder:
        full_path, path = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        full_final, checks = _counted(full, full_checks, recipe)
        _save(full_final, _contract(full_final, source, checks, recipe), full_path)
        for share, model in candidates(full.model, full.spec, [item.path for item in calibration]):
            progress(
                f"comparing with float32 on {len(held_out)} other photos, "
                f"{share:.0%} of the multiplications being in float32"
            )
            draft = full.stored(model, "int8")
            checks = [*full_checks, *gate.check(draft, None)]
            gate.require(checks, precision="int8")
            draft, checks = _counted(draft, checks, recipe)
            contract = _contract(draft, source, checks, recipe)
            _save(draft, contract, path)
            figures = fidelity(full_path, path, held_out)
            missed = shortfalls(figures, recipe.fidelity)
            if not missed:
                facts = {"calibration_images": len(calibration), "float_share": share, **figures}
                required = {"required": asdict(recipe.fidelity)}
                return draft, replace(contract, fidelity=facts | required), checks
            progress(f"too far: {', '.join(missed)}")
    raise ExportError(
        f"int8 is too far from float32 on {len(held_out)} photos: {', '.join(missed)}; calibrate on more "
        "photos, lower the recipe's fidelity, or use precision fp16; nothing was written"
    )


def _counted(draft: Draft, checks: list[Check], recipe: Recipe) -> tuple[Draft, list[Check]]:
    """The artifact with its parts counted from the recipe's reference, and all that it was checked for."""
    counted = relative.counted_from(draft, recipe)
    if counted is draft:
        return draft, checks
    more = gate.check_reference(draft, counted)
    gate.require(more, precision=draft.precision)
    return counted, [*checks, *more]


def _save(draft: Draft, contract: Contract, path: Path) -> None:
    model, piece = split(draft.model)
    graphs = {MAPS_KEY: draft.maps.SerializeToString()}
    if piece is not None:
        graphs[OPTIONAL_KEY] = piece.SerializeToString()
    metadata = contract.to_metadata()
    metadata |= {key: b64encode(graph).decode("ascii") for key, graph in graphs.items()}
    onnx.helper.set_model_props(model, metadata)
    try:
        digest = graph_digest(model.SerializeToString())
        onnx.helper.set_model_props(model, {**metadata, GRAPH_KEY: digest})
        onnx.save(model, str(path))
    except ValueError as error:
        raise ExportError(f"the model is too large for one file (2 GB): {error}") from error


def _input_spec(recipe: Recipe, source: Source) -> tuple[InputSpec, list[str]]:
    """The recipe's preprocessing, else the source's own, else the customary one with a note."""
    notes = []
    known = {key: value for key, value in source.preprocessing.items() if value is not None}
    chosen: dict[str, Any] = {}
    for key in ("mean", "std", "colour", "resize", "kernel", "crop_fraction"):
        value = getattr(recipe, key) if getattr(recipe, key) is not None else known.get(key)
        if value is not None:
            chosen[key] = value
    if "mean" not in chosen or "std" not in chosen:
        notes.append(
            "mean and std are not known and ImageNet's are taken; wrong ones cost accuracy without an error: "
            "give those of the training with --mean and --std"
        )
    chosen.setdefault("mean", IMAGENET_MEAN)
    chosen.setdefault("std", IMAGENET_STD)
    height, width = recipe.size or known["size"]
    return InputSpec(height=height, width=width, dynamic=recipe.dynamic, **chosen), notes


def _contract(draft: Draft, source: Source, checks: list[Check], recipe: Recipe) -> Contract:
    exposure, spec = draft.exposure, draft.spec
    channels, height, width = exposure.shape
    settings: dict[str, Any] = {
        "pooling": exposure.pooling,
        "p": exposure.p,
        "eps": exposure.eps,
        "head": exposure.head,
        "bias": None if draft.bias is None else encode_bias(draft.bias),
        "precision": draft.precision,
    }
    parity: dict[str, dict[str, float]] = gate.summary(checks)
    if exposure.head == "gated":
        parity["rest"] = {"share": gate.rest_share(draft)}
    return Contract(
        input=spec,
        channels=channels,
        dimension=exposure.dimension,
        grid_height=height,
        grid_width=width,
        fingerprint=fingerprint(split(draft.model)[0], spec, settings),
        source=source.facts | relative.facts(recipe),
        versions={
            name: metadata.version(name) for name in ("simmap", "onnx", "onnxruntime", *source.libraries)
        },
        parity=parity,
        rest=exposure.rest,
        reference=relative.kind_of(recipe, exposure),
        **settings,
    )


def _rest_notes(contract: Contract) -> list[str]:
    """A warning where the maps leave most of a score unexplained."""
    share = contract.parity.get("rest", {}).get("share", 0.0)
    if share <= gate.LARGEST_REST:
        return []
    return [
        f"no place owns {share:.0%} of a photo's similarity with itself: the maps of this network explain "
        "less than half of its scores"
    ]
