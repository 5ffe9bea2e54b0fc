"""From an artifact to its pair graph, through a gate of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from simmap.engine.engine import Engine
from simmap.engine.errors import ArtifactError, ExportError, ImageError, printable
from simmap.engine.files import check_output, replacing
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.engine.pair import PairContract
from simmap.engine.results import Pair
from simmap.engine.runtime.ort import cpu_session, one_line
from simmap.engine.runtime.session import open_session
from simmap.engine.types import Array, Pixels

from .gate import BATCHES, PHOTOS
from .surgery.pairing import pair_graph

# Of a cosine and its parts. Resizing in the graph may differ from OpenCV's by 1 in a channel.
TOLERANCE, PHOTO_TOLERANCE = 1e-5, 5e-3


@dataclass(frozen=True)
class PairReport:
    """What ``export_pair`` made.

    Attributes:
        path: the pair graph.
        contract: what it says of itself.
        opset: the least that a runtime must know.
        size: bytes of the file.
    """

    path: Path
    contract: PairContract
    opset: int
    size: int


def export_pair(
    model: str | Path,
    output: str | Path,
    *,
    points: bool = False,
    photo: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> PairReport:
    """Make the pair graph of an artifact, check it against the engine and write it.

    Args:
        model: the artifact.
        output: the ``.onnx`` file to write.
        points, photo: see ``engine.pair.PairContract``.
        force: overwrite it if it exists.
        progress: called with one line at each step.

    Raises:
        ArtifactError: ``model`` is no artifact, or is damaged.
        ExportError: the pair graph failed the gate; no file is written and an old one stays.
        OutputError: ``output`` cannot be written.
    """
    output = check_output(output, force=force)
    contract = open_session(model, device="cpu", threads=1).contract
    described = PairContract(contract, points, photo)
    progress("putting two photos and their maps into the graph")
    graph = _graph(Path(model), described)
    progress("checking against the engine at batch 1 and 3, on real photos")
    described = replace(described, parity=_checked(graph, described, Path(model)))
    progress(f"writing {output}")
    onnx.helper.set_model_props(graph, described.to_metadata())
    with replacing(output, force=force) as temporary:
        try:
            onnx.save(graph, str(temporary))
        except ValueError as error:
            raise ExportError(f"the pair graph is too large for one file (2 GB): {error}") from error
        cpu_session(temporary, threads=1)
    opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
    return PairReport(output, described, opset, output.stat().st_size)


def _graph(model: Path, described: PairContract) -> onnx.ModelProto:
    try:
        return pair_graph(onnx.load(str(model)), described)
    except ExportError:
        raise
    except Exception as error:  # the onnx package's exceptions share no base class
        reason = one_line(error) or type(error).__name__
        raise ExportError(
            f"{printable(str(model))}: no pair graph can be made of it ({reason}); export it again"
        ) from error


def _checked(graph: onnx.ModelProto, described: PairContract, model: Path) -> dict[str, float]:
    """The largest differences from the engine, by output.

    Raises:
        ExportError: one is outside its tolerance, or the graph does not run.
    """
    try:
        session = cpu_session(graph.SerializeToString())
    except ArtifactError as error:
        raise ExportError(f"the pair graph does not load: {error}") from error
    spec = described.contract.input
    sizes: list[tuple[int, int] | None] = [None]
    if spec.dynamic and not described.photo:
        sizes.append((spec.height + 32, spec.width + 64))
    worst: dict[str, float] = {}
    for size in sizes:
        with Engine(model, device="cpu", options=Options(size=size, cache=False)) as engine:
            for count in BATCHES:
                for name, difference in _differences(session, described, engine, size, count).items():
                    worst[name] = float(np.maximum(worst.get(name, 0.0), difference))  # keeps NaN
    tolerance = PHOTO_TOLERANCE if described.photo else TOLERANCE
    failed = {name: value for name, value in worst.items() if not value <= tolerance}
    if failed:
        figures = ", ".join(f"{name} by {value:.3g}" for name, value in failed.items())
        raise ExportError(
            f"the pair graph differs from the engine on real photos: {figures}; at most {tolerance:g} is "
            "allowed; no pair graph was written"
        )
    return worst


def _differences(
    session: Any, described: PairContract, engine: Engine, size: tuple[int, int] | None, count: int
) -> dict[str, float]:
    """One run at a batch against as many comparisons."""
    photos = [_turned(load(path).pixels, count) for path in sorted(PHOTOS.glob("*.jpg"))[:2]]
    feed = {name: _stacked(each, described, size) for name, each in zip("ab", photos, strict=True)}
    try:
        values = dict(zip(described.outputs, session.run(described.outputs, feed), strict=True))
    except Exception as error:  # ORT's exceptions share no public base class
        raise ExportError(f"the pair graph fails at batch {count}: {one_line(error)}") from error
    worst = dict.fromkeys(described.outputs, 0.0)
    for at, (first, second) in enumerate(zip(*photos, strict=True)):
        try:
            expected = _expected(engine.compare(first, second), points=described.points)
        except ImageError as error:
            raise ExportError(f"the artifact has no map of a real photo: {error}") from error
        for name, value in expected.items():
            ours = values[name][at]
            if ours.shape != value.shape:
                raise ExportError(
                    f"the pair graph's {name} has shape {ours.shape}, the engine's {value.shape}"
                )
            worst[name] = float(np.maximum(worst[name], np.abs(ours - value).max()))
    return worst


def _turned(pixels: Pixels, count: int) -> list[Pixels]:
    """A photo, mirrored and upside down: as many photos of one size."""
    return [pixels, np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(pixels[::-1])][:count]


def _stacked(photos: Sequence[Pixels], described: PairContract, size: tuple[int, int] | None) -> Pixels:
    """Photos as the graph takes them, in the artifact's order of colours."""
    spec = described.contract.input
    if not described.photo:
        return np.stack([preprocess(pixels, spec, size=size)[0] for pixels in photos])
    stacked = np.stack(photos)
    return stacked if spec.colour == "rgb" else np.ascontiguousarray(stacked[..., ::-1])


def _expected(pair: Pair, *, points: bool) -> dict[str, Array]:
    """The outputs of a pair graph as the engine has them."""
    values: dict[str, Array] = {"score": np.asarray(pair.score)}
    for at, side in enumerate("ab"):
        values[f"map_{side}"] = pair.maps[at]
        values[f"residual_{side}"] = np.asarray(pair.residuals[at])
        values[f"influence_{side}"] = pair.influence[at]
    if points:
        height, width = pair.images[0].parts.shape[:2]
        rows = [pair.point(0, y, x).ravel() for y in range(height) for x in range(width)]
        values["points"] = np.stack(rows)
    return values
