"""The gate: an artifact that does not compute what its source computes is not written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine import decompose
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ArtifactError, ExportError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.runtime.ort import cpu_session, one_line
from simmap.engine.types import Array

from .draft import Draft
from .held import attended_parts, carry
from .sources.reference import Reference, as_channels_first, normalise
from .sources.token_reference import PROOFS
from .surgery.carrying import ATTENTION, TOKEN_TAIL
from .surgery.exposing import normalises
from .surgery.exposure import Exposure

# Largest |artifact - source| over the largest |source|. float32 differs by the order of its sums;
# float16 keeps 11 bits of a weight, and errors of many weights add up, and as arithmetic also those of
# activations. int8 is held against itself here, and against float32 by its fidelity.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "fp16-cuda": 5e-2, "int8": 1e-4}
# What one sum in another order may cost: pooling of conv in NumPy, parts against the embedding.
SUM_TOLERANCE = 2e-5
BATCHES = (1, 3)
# The share of a score that may belong to no place before a user is warned.
LARGEST_REST = 0.5
PHOTOS = Path(__file__).resolve().parent.parent / "models" / "photos"


@dataclass(frozen=True)
class Check:
    """One comparison: the largest absolute and relative difference."""

    name: str
    images: str
    batch: int
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the relative difference is within the tolerance (NaN is not)."""
        return self.relative <= self.tolerance


def check(draft: Draft, reference: Reference | None) -> list[Check]:
    """Run an artifact at batch 1 and 3 on random and on real images, and compare it with its source.

    Args:
        draft: the artifact.
        reference: asks the source; None checks only what must hold within the artifact.

    Raises:
        ExportError: the artifact does not run.
    """
    network = _open(_with_inner(draft.model, _inner(draft.exposure)))
    mapping = _open(draft.maps)
    names = [output.name for output in network.get_outputs()]
    # A source may hold float16 of its own, whatever the precision of the artifact.
    is_half = any(w.data_type == onnx.TensorProto.FLOAT16 for w in draft.model.graph.initializer)
    tolerance = max(TOLERANCE[draft.precision], TOLERANCE["fp16"] if is_half else 0)
    tokens = draft.exposure.tokens
    proof = TOLERANCE["fp16" if tokens is not None and tokens.dtype == np.float16 else "fp32"]
    takes_floats = normalises(draft.model)
    checks: list[Check] = []
    for size in draft.sizes:
        for kind, batch in _batches(draft.spec, size):
            images = f"{kind} {size[0]}x{size[1]}" if len(draft.sizes) > 1 else kind
            try:
                outputs = dict(zip(names, network.run(None, {"image": batch}), strict=True))
            except Exception as error:
                raise ExportError(f"the artifact fails at batch {len(batch)}: {one_line(error)}") from error
            if reference is not None:
                # A source that takes bytes normalises them itself.
                given = normalise(batch, draft.spec) if takes_floats else as_channels_first(batch)
                for name, (ours, theirs) in reference(given, outputs).items():
                    least = proof if name in PROOFS else tolerance
                    checks.append(_compare(name, images, ours, theirs, least))
            if np.isfinite(outputs["conv" if tokens is None else "parts"]).all():  # else these have failed
                checks += _sums(draft.exposure, outputs, images, tolerance)
                checks.append(_maps(mapping, draft.exposure, outputs, images))
    return checks


def check_reference(plain: Draft, draft: Draft) -> list[Check]:
    """Hold an artifact whose parts are counted from a reference against the same one counted from zero.

    Args:
        plain: with the parts counted from zero; has passed ``check``.
        draft: with ``reference``.

    Raises:
        ExportError: the artifact does not run.
    """
    assert draft.reference is not None
    before, after = _open(plain.model), _open(draft.model)
    names = ["embedding", "parts"]
    checks: list[Check] = []
    for images, batch in _batches(draft.spec, (draft.spec.height, draft.spec.width)):
        try:
            embedding, parts = before.run(names, {"image": batch})
            same_embedding, relative_parts = after.run(names, {"image": batch})
        except Exception as error:
            raise ExportError(f"the artifact fails at batch {len(batch)}: {one_line(error)}") from error
        checks.append(_compare("embedding, any reference", images, same_embedding, embedding, 0.0))
        expected = parts.astype(np.float64) - draft.reference
        checks.append(_compare("parts - reference", images, relative_parts, expected, SUM_TOLERANCE))
        if draft.exposure.rest == "image":
            continue  # which is what the sum lacks
        total = relative_parts.sum(axis=(1, 2), dtype=np.float64)
        if draft.bias is not None:
            total += draft.bias
        checks.append(_compare("embedding = sum(parts)", images, embedding, total, SUM_TOLERANCE))
    return checks


def _open(model: onnx.ModelProto) -> Any:
    try:
        return cpu_session(model.SerializeToString())
    except ArtifactError as error:
        raise ExportError(f"the artifact does not load: {error}") from error


def _inner(exposure: Exposure) -> tuple[str, ...]:
    """Tensors of an artifact that its parts are computed from again: of attention, or of a token's tail."""
    if exposure.attention is not None:
        return ATTENTION
    return TOKEN_TAIL if exposure.tokens is not None and exposure.gated is not None else ()


def _with_inner(model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """A copy that also gives these tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return copy


def rest_share(draft: Draft) -> float:
    """The share of what no place owns in the similarity of a real photo with itself, ``rest . e / |e|^2``.

    Returns:
        The mean over the photos that ship.
    """
    session = _open(draft.model)
    shares = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        image = preprocess(load(path).pixels, draft.spec)[0][None]
        outputs = session.run(["embedding", "parts"], {"image": image})
        embedding, parts = (np.asarray(value[0], dtype=np.float64) for value in outputs)
        shares.append(1 - parts.sum(axis=(0, 1)) @ embedding / (embedding @ embedding))
    return float(np.mean(shares))


def require(checks: Sequence[Check], *, precision: str = "fp32") -> None:
    """Refuse an artifact of some precision that failed a comparison, with the figures.

    Raises:
        ExportError: names each output that is outside its tolerance.
    """
    failed = [c for c in checks if not c.passed]
    if failed:
        exact = [c for c in failed if np.isnan(c.relative) or c.tolerance == 0]
        worst = exact[0] if exact else max(failed, key=lambda c: c.relative / c.tolerance)
        names = ", ".join(sorted({c.name for c in failed}))
        mend = "use precision fp16 or fp32, " if precision == "fp16-cuda" else ""
        raise ExportError(
            f"the artifact differs from its source in {names}: {worst.name} on {worst.images} images at "
            f"batch {worst.batch} by {worst.absolute:.3g} (relative {worst.relative:.3g}, tolerance "
            f"{worst.tolerance:.3g}); {mend}nothing was written"
        )


def summary(checks: Sequence[Check]) -> dict[str, dict[str, float]]:
    """The largest differences by output, for the contract."""
    figures: dict[str, dict[str, float]] = {}
    for item in checks:
        entry = figures.setdefault(item.name, {"absolute": 0.0, "relative": 0.0, "tolerance": item.tolerance})
        entry["absolute"] = max(entry["absolute"], item.absolute)
        entry["relative"] = max(entry["relative"], item.relative)
    return figures


def _batches(spec: InputSpec, size: tuple[int, int]) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Random and real images at batch 1 and 3."""
    rng = np.random.default_rng(0)
    photos = [load(path).pixels for path in sorted(PHOTOS.glob("*.jpg"))]
    batches = []
    for count in BATCHES:
        noise = rng.integers(0, 256, size=(count, *size, 3), dtype=np.uint8)
        real = [preprocess(photos[i % len(photos)], spec, size=size)[0] for i in range(count)]
        batches += [("random", noise), ("real", np.stack(real))]
    return batches


def _compare(name: str, images: str, ours: Array, expected: Array, tolerance: float) -> Check:
    if ours.shape != expected.shape:
        raise ExportError(f"the artifact's {name} has shape {ours.shape}, its source gives {expected.shape}")
    difference = float(np.abs(ours - expected).max())
    size = float(np.abs(expected).max())
    relative = difference / size if size > 0 else difference
    return Check(name, images, len(ours), difference, relative, tolerance)


def _sums(exposure: Exposure, outputs: dict[str, Array], images: str, tolerance: float) -> list[Check]:
    """What the engine will rely on: places sum to the feature."""
    checks: list[Check] = []
    if exposure.tokens is not None and exposure.gated is None:
        return checks  # the rest is what remains: the source's blocks prove the parts
    if exposure.tokens is not None and exposure.gated is not None:
        # The feature and its parts are held against the source; here the gates behind them are.
        expected, own = carry(exposure.gated, *(outputs[name] for name in TOKEN_TAIL))
        total = outputs["parts"].astype(np.float64).sum(axis=(1, 2)) + own
        return [
            _compare("gated parts", images, outputs["parts"], expected, TOLERANCE["fp32"]),
            _compare("embedding = sum(parts)", images, outputs["embedding"], total, SUM_TOLERANCE),
        ]
    if exposure.pooling not in ("weights", "flatten", "attention"):
        eps = decompose.GEM_EPS if exposure.eps is None else exposure.eps
        conv = outputs["conv"].astype(np.float64)
        expected = decompose.pool(conv, exposure.pooling, p=exposure.p, eps=eps)
        checks.append(_compare("pooled = pool(conv)", images, outputs["pooled"], expected, SUM_TOLERANCE))
    if "parts" in outputs:
        parts, rest = _owned(exposure, outputs)
        # The weights of a gated tail are those that the artifact stores: only the order of sums differs.
        least = tolerance if exposure.gated is None else TOLERANCE["fp32"]
        checks.append(_compare("parts", images, outputs["parts"], parts, least))
        total = outputs["parts"].astype(np.float64).sum(axis=(1, 2)) + rest
        checks.append(_compare("embedding = sum(parts)", images, outputs["embedding"], total, SUM_TOLERANCE))
    return checks


def _maps(session: Any, exposure: Exposure, outputs: dict[str, Array], images: str) -> Check:
    """Maps by the artifact's own graph against those by the definition."""
    affine = "parts" in outputs
    places = outputs["parts" if affine else "conv"]
    # The others' embeddings, brought to a size at which no product overflows.
    embeddings = outputs["embedding" if affine else "pooled"][::-1].astype(np.float64)
    directions = embeddings / (np.abs(embeddings).max(axis=1, keepdims=True) + np.finfo(np.float64).tiny)
    feed = {"places": places, "directions": directions.astype(np.float32)}
    (maps,) = session.run(["maps"], feed)
    parts = places.astype(np.float64) if affine else _parts(exposure, places)
    expected = np.einsum("nhwd,nd->nhw", parts, directions)
    return _compare("maps", images, maps, expected, TOLERANCE["fp32"])


def _owned(exposure: Exposure, outputs: dict[str, Array]) -> tuple[Array, Array | float]:
    """What each place adds to the embedding (N, H, W, D), and what no place owns: (N, D), or (D,) for all."""
    if exposure.attention is not None:
        parts = attended_parts(exposure.attention, *(outputs[name] for name in ATTENTION))
    else:
        parts = _parts(exposure, outputs["conv"])
    bias = 0.0 if exposure.bias is None else exposure.bias
    if exposure.gated is None:
        return parts, bias
    before = 0.0 if exposure.tail_bias is None else exposure.tail_bias
    parts, rest = carry(exposure.gated, parts.sum(axis=(1, 2)) + before, parts)
    return parts, rest if exposure.rest == "image" else bias


def _parts(exposure: Exposure, conv: Array) -> Array:
    """``W alpha_hat`` (N, H, W, D) of feature maps (N, C, H, W), place by place."""
    tail, double = exposure.tail, conv.astype(np.float64)
    if exposure.pooling == "flatten" and tail is not None:
        cube = tail.matrix.reshape(-1, *conv.shape[1:])
        rows, columns = conv.shape[2:]
        # One place at a time: a float64 copy of the whole matrix may take gigabytes.
        each = [double[:, :, y, x] @ cube[:, :, y, x].T for y in range(rows) for x in range(columns)]
        return np.stack(each, axis=1).reshape(len(conv), rows, columns, -1)
    if exposure.pooling == "weights" and exposure.place_weights is not None:
        hats = np.moveaxis(double * exposure.place_weights, 1, -1)
    else:
        eps = decompose.GEM_EPS if exposure.eps is None else exposure.eps
        hats = np.stack([decompose.alpha_hat(a, exposure.pooling, p=exposure.p, eps=eps) for a in double])
    if tail is None:
        return hats
    return np.asarray(hats * tail.matrix if tail.matrix.ndim == 1 else hats @ tail.matrix.T)
