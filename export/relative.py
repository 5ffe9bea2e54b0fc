"""Parts counted from a reference: what a photo adds over a blank one.

With a weight per place and biases inside the network, parts count from a feature of zero, which no photo has.
Subtracting the parts of a reference moves that origin and keeps the sum: ``parts' = parts - reference``,
``rest' = rest + sum over places of reference``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from simmap.engine.contract import Reference
from simmap.engine.errors import ArtifactError, ExportError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import blank, preprocess
from simmap.engine.runtime.ort import cpu_session, one_line
from simmap.engine.types import Array, Pixels

from .draft import Draft
from .recipe import Recipe
from .sources.reference import Reference as SourceReference
from .surgery.affine import Affine
from .surgery.exposure import Exposure
from .surgery.nodes import OURS

DESCRIPTIONS: dict[Reference, str] = {
    "zero": "zero",
    "blank": "a blank photo",
    "images": "the mean over the reference's photos",
}
FROM_ZERO, REFERENCE = f"{OURS}parts_from_zero", f"{OURS}reference"


def kind_of(recipe: Recipe, exposure: Exposure) -> Reference:
    """Which reference the artifact of a network has: the recipe's, else ``blank`` for a weight per place."""
    if recipe.reference is None:
        return "blank" if exposure.pooling in ("weights", "flatten") else "zero"
    if recipe.reference == "blank":
        return "blank"
    return "zero" if recipe.reference == "zero" else "images"


def facts(recipe: Recipe) -> dict[str, str]:
    """What ``Contract.source`` says of the photos of a reference."""
    photos = recipe.reference_photos()
    return {"reference": f"{Path(str(recipe.reference)).name}, {len(photos)} photos"} if photos else {}


def with_parts(exposure: Exposure, source: SourceReference) -> tuple[Exposure, SourceReference]:
    """The same network with the outputs ``embedding`` and ``parts``: behind a bare pooling by ``W = I``.

    Args:
        exposure: of the network.
        source: asks the source, which has no such embedding beside its pooled feature.
    """
    if exposure.has_head:
        return exposure, source
    size = exposure.pooled_channels

    def ask(batch: Array, ours: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        return source(batch, {name: ours[name] for name in ("conv", "pooled")})

    return replace(exposure, tail=Affine(np.ones(size), np.zeros(size))), ask


def counted_from(draft: Draft, recipe: Recipe) -> Draft:
    """The artifact with its parts counted from the recipe's reference, which the artifact itself computes.

    A blank photo has the constant colour mean; of a folder of photos it is the mean of their parts. Where the
    reference is zero everywhere, the graph stays as it is.

    Args:
        draft: with the output ``parts``, counted from zero.
        recipe: its ``reference``.

    Returns:
        ``draft`` itself for the reference ``zero``.

    Raises:
        ExportError: the reference is not finite, or it is not zero and the artifact takes any size.
        ImageError: a photo cannot be read.
    """
    kind = kind_of(recipe, draft.exposure)
    if kind == "zero":
        return draft
    try:
        session = cpu_session(draft.model.SerializeToString())
    except ArtifactError as error:
        raise ExportError(f"the artifact does not load: {error}") from error
    photos = recipe.reference_photos()
    means = [_mean_parts(session, _inputs(draft, photos, size)) for size in draft.sizes]
    name = DESCRIPTIONS[kind]
    if not all(np.isfinite(mean).all() for mean in means):
        raise ExportError(
            f"reference: the parts of {name} have NaN or infinite values; give --reference zero"
        )
    if not any(mean.any() for mean in means):
        return replace(draft, reference=means[0])
    if draft.spec.dynamic:
        raise ExportError(
            f"reference: the parts of {name} are not zero and are stored for one size only; leave --dynamic "
            "out, or give --reference zero"
        )
    return replace(draft, model=_subtracting(draft.model, means[0]), reference=means[0])


def _inputs(draft: Draft, photos: Sequence[str], size: tuple[int, int]) -> Iterator[Pixels]:
    """A blank input, or those of ``photos``."""
    if not photos:
        yield blank(draft.spec, *size)
    for path in photos:
        yield preprocess(load(path).pixels, draft.spec, size=size)[0]


def _mean_parts(session: Any, inputs: Iterator[Pixels]) -> Array:
    """(H, W, D) float32, added up in float64."""
    total: Array | None = None
    count = 0
    for image in inputs:
        try:
            (parts,) = session.run(["parts"], {"image": image[None]})
        except Exception as error:  # ORT's exceptions share no public base class
            raise ExportError(f"the artifact fails on a photo of its reference: {one_line(error)}") from error
        double = parts[0].astype(np.float64)
        total = double if total is None else total + double
        count += 1
    assert total is not None
    return np.asarray(total / count, np.float32)


def _subtracting(model: onnx.ModelProto, reference: Array) -> onnx.ModelProto:
    """A copy whose ``parts`` are less ``reference`` (H, W, D) float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.input[:] = [FROM_ZERO if name == "parts" else name for name in node.input]
        node.output[:] = [FROM_ZERO if name == "parts" else name for name in node.output]
    copy.graph.initializer.append(numpy_helper.from_array(reference, REFERENCE))
    copy.graph.node.append(
        helper.make_node("Sub", [FROM_ZERO, REFERENCE], ["parts"], name=f"{OURS}relative_parts")
    )
    return copy
