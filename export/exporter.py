"""From a recipe to an artifact on the disk, through the gate."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from simmap.engine.contract import MAPS_KEY, Contract, Head, InputSpec, Precision, encode_bias
from simmap.engine.errors import ExportError
from simmap.engine.files import check_output, replacing
from simmap.engine.runtime.session import open_session
from simmap.engine.types import Array, Triple

from . import gate
from .gate import Check
from .precision import float16
from .precision.fidelity import fidelity, shortfalls
from .precision.int8 import candidates
from .recipe import Recipe
from .sources.source import Source, open_source
from .surgery.analysis import Exposure, analyse
from .surgery.exposing import expose
from .surgery.fingerprint import fingerprint
from .surgery.heads import constant_part, has_head
from .surgery.maps import map_graph

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
# A second input size for dynamic artifacts; steps of 32 suit every common stride.
SECOND_SIZE = (32, 64)


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
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Build, expose, check and write one artifact.

    Args:
        recipe: the network and its preprocessing.
        output: the ``.onnx`` file to write.
        force: overwrite it if it exists.
        progress: called with one line at each step.

    Raises:
        ExportError: the network cannot be exposed, or the artifact failed the gate; no file is
            written and an old one stays.
        OutputError: ``output`` cannot be written.
        ConfigError: the recipe's weights or photos are not to be had.
        ImageError: a photo of ``calibrate`` cannot be read.
    """
    output = check_output(output, force=force)
    progress(f"building {recipe.kind} {recipe.name}")
    source = open_source(recipe)
    progress("looking for the feature map and its pooling")
    exposure = analyse(
        source.graph,
        conv_layer=source.conv_layer,
        pool=source.pool,
        p=source.p,
        embedding=source.embedding,
        cells=recipe.grid,
    )
    spec, notes = _input_spec(recipe, source)
    notes = [*source.notes, *exposure.notes, *notes]
    if exposure.tail is None and exposure.pooled_scale != 1:
        notes.append(
            f"the source's pooled feature is {exposure.pooled_scale:g} times this one; cosines agree"
        )
    progress(
        f"{'feature map' if exposure.tokens is None else 'tokens'} {exposure.conv!r} "
        f"{' x '.join(map(str, exposure.shape))}, pooling {exposure.pooling}, head {_head(exposure)}"
    )
    if recipe.precision == "int8" and exposure.tokens is not None:
        raise ExportError(
            "precision int8 quantises convolutions, and a transformer has one, for its patches, so nothing "
            "would be gained; use precision fp16 or fp16-cuda"
        )
    model = expose(source.graph, exposure, spec)
    maps = map_graph(exposure, dynamic=spec.dynamic)
    bias = constant_part(exposure)
    progress("checking against the source at batch 1 and 3, on random and on real images")
    sizes = [(spec.height, spec.width)]
    if spec.dynamic:
        sizes.append((spec.height + SECOND_SIZE[0], spec.width + SECOND_SIZE[1]))
    # What is quantised is the float32 graph, so that is the one that must agree with the source.
    stored: Precision = "fp32" if recipe.precision == "int8" else recipe.precision
    reference = source.reference(exposure)

    def compared(form: onnx.ModelProto) -> list[Check]:
        return gate.check(
            form, exposure, spec, reference, precision=stored, bias=bias, sizes=sizes, maps=maps
        )

    checks: list[Check] = []
    if recipe.precision == "fp16-cuda":
        checks += [
            replace(each, images=f"{each.images}, rounded") for each in compared(float16.rounded(model))
        ]
        model = float16.compute(model)
    if recipe.precision in ("fp16", "fp16-cuda"):
        float16.store(model)
    checks += compared(model)
    gate.require(checks, precision=stored)
    contract = _contract(stored, source, exposure, spec, model, bias, checks)
    if contract.rest == "image":
        share = gate.rest_share(model, spec)
        contract = replace(contract, parity={**contract.parity, "rest": {"share": share}})
        if not share <= gate.LARGE_REST:
            notes.append(
                f"no place owns {share:.0%} of a photo's similarity with itself: the maps of this network "
                "say little about its scores"
            )
    if recipe.precision == "int8":
        calibration, held_out = recipe.split_photos()
        progress(f"calibrating on {len(calibration)} photos of {recipe.calibrate}")
        with TemporaryDirectory() as folder:
            paths = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            full = model
            _save(full, maps, contract, paths[0])
            for share, model in candidates(full, spec, [item.path for item in calibration]):
                progress(
                    f"comparing with float32 on {len(held_out)} other photos, "
                    f"{share:.0%} of the multiplications being in float32"
                )
                found = gate.check(
                    model, exposure, spec, None, precision="int8", bias=bias, sizes=sizes, maps=maps
                )
                gate.require(found, precision="int8")
                contract = _contract("int8", source, exposure, spec, model, bias, [*checks, *found])
                _save(model, maps, contract, paths[1])
                figures = fidelity(*paths, held_out)
                missed = ", ".join(shortfalls(figures, recipe.fidelity))
                if not missed:
                    break
                progress(f"too far: {missed}")
        if missed:
            raise ExportError(
                f"int8 is too far from float32 on {len(held_out)} photos: {missed}; calibrate on more "
                "photos, lower the recipe's fidelity, or use precision fp16; nothing was written"
            )
        checks += found
        told = {"calibration_images": len(calibration), "float_share": share, **figures}
        contract = replace(contract, fidelity={**told, "required": asdict(recipe.fidelity)})
    progress(f"writing {output}")
    with replacing(output, force=force) as temporary:
        _save(model, maps, contract, temporary)
        open_session(temporary, device="cpu", threads=1)
    return Report(output, contract, tuple(checks), tuple(notes), len(model.graph.node), output.stat().st_size)


def _save(model: onnx.ModelProto, maps: onnx.ModelProto, contract: Contract, path: Path) -> None:
    graph = b64encode(maps.SerializeToString()).decode("ascii")
    onnx.helper.set_model_props(model, {**contract.to_metadata(), MAPS_KEY: graph})
    try:
        onnx.save(model, str(path))
    except ValueError as error:
        raise ExportError(f"the model is too large for one file (2 GB): {error}") from error


def _input_spec(recipe: Recipe, source: Source) -> tuple[InputSpec, list[str]]:
    """The recipe's preprocessing, else the source's own, else the customary one with a note."""
    notes = []
    known = {key: value for key, value in source.spec.items() if value is not None}
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


def _head(exposure: Exposure) -> Head:
    if exposure.tokens is not None:
        return "gated"
    return "affine" if has_head(exposure) else "none"


def _contract(
    precision: Precision,
    source: Source,
    exposure: Exposure,
    spec: InputSpec,
    model: onnx.ModelProto,
    bias: Array | None,
    checks: list[Check],
) -> Contract:
    channels, height, width = exposure.shape
    pooled = channels * (2 if exposure.pooling == "catavgmax" else 1)
    settings: dict[str, Any] = {
        "pooling": exposure.pooling,
        "p": exposure.p,
        "eps": exposure.eps,
        "head": _head(exposure),
        "bias": None if bias is None else encode_bias(bias),
        "precision": precision,
    }
    return Contract(
        input=spec,
        channels=channels,
        dimension=pooled if exposure.tail is None else exposure.tail.dimension,
        rest="constant" if exposure.tokens is None else "image",
        grid_height=height,
        grid_width=width,
        fingerprint=fingerprint(model, spec, settings),
        source=source.facts,
        versions={
            name: metadata.version(name) for name in ("simmap", "onnx", "onnxruntime", *source.libraries)
        },
        parity=gate.summary(checks),
        **settings,
    )
