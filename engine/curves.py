"""Curves over many pairs of images: how few features make a score, and whether maps are true to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from simmap.engine import decompose
from simmap.engine.decompose import Array
from simmap.engine.errors import ConfigError, OutputError
from simmap.engine.files import check_output, replacing
from simmap.engine.image import Geometry, Photo
from simmap.engine.pipeline import Engine

MARKED = 10  # features; the paper's own mark in figure 3
LEAST_SCORE = 0.05  # below it, shares of a score mean nothing
WORKING_SIDE = 2  # times the network's input: the size of a photo of which parts are blurred
BLUR = 0.1  # standard deviation over the photo's longer side
FORMATS = (".png", ".svg", ".pdf")
Spread = dict[str, float]


@dataclass(frozen=True, eq=False)
class ContributionCurve:
    """How much of a score its k largest features give (section 4.1, figure 3).

    Attributes:
        pairs: images whose score is large enough to be shared out.
        left_out: pairs whose score is below ``LEAST_SCORE``.
        scores: (n,) of the pairs.
        mean, low, high: (D,) over the pairs, of the running sum of the sorted contributions over the
            score: the mean, the 10th and the 90th percentile. Entry k - 1 is that of k features.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: int
    scores: Array
    mean: Array
    low: Array
    high: Array

    def report(self) -> dict[str, Any]:
        """What ``simmap contribution --json`` prints of it."""
        k = min(MARKED, len(self.mean))
        return {
            "pairs": len(self.pairs),
            "left_out": self.left_out,
            "mean_score": float(self.scores.mean()),
            f"top_{k}": {
                "mean": float(self.mean[k - 1]),
                "percentile_10": float(self.low[k - 1]),
                "percentile_90": float(self.high[k - 1]),
            },
            "mean": self.mean.tolist(),
            "percentile_10": self.low.tolist(),
            "percentile_90": self.high.tolist(),
        }

    def draw(self, path: str | Path, *, force: bool = False) -> None:
        """Draw the curve as PNG, SVG or PDF.

        Raises:
            ConfigError: matplotlib is not installed.
            OutputError: the file exists and ``force`` is false, or it cannot be written.
        """
        figure, (axes,) = _figure(1)
        features = np.arange(1, len(self.mean) + 1)
        axes.fill_between(
            features, self.low, self.high, alpha=0.2, label="10th to 90th percentile of the pairs"
        )
        axes.plot(features, self.mean, linewidth=2, label=f"mean of {len(self.pairs)} pairs")
        k = min(MARKED, len(self.mean))
        axes.plot(k, self.mean[k - 1], "o", color="black")
        axes.annotate(
            f"{k} of {len(self.mean)} features: {self.mean[k - 1]:.0%}",
            (k, self.mean[k - 1]), xytext=(12, -18), textcoords="offset points",
        )  # fmt: skip
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlim=(1, len(self.mean)), xlabel="features, largest contribution first")
        axes.set(ylim=(0, None), ylabel="share of the score")
        axes.legend(loc="lower right")
        _save(figure, path, force)


def contribution_curve(engine: Engine, pairs: Sequence[tuple[str, str]]) -> ContributionCurve:
    """The mean curve of the top-k features' share of the score.

    Args:
        engine: the network.
        pairs: paths of two images each; an image in several pairs is embedded once.

    Raises:
        ConfigError: no pair's score is above ``LEAST_SCORE``.
        ImageError: an image cannot be read or embedded.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in pair))
    known = {vector.path: decompose.unit(vector.embedding) for vector in engine.vectors(paths)}
    shared = [pair for pair in pairs if float(known[pair[0]] @ known[pair[1]]) >= LEAST_SCORE]
    if not shared:
        raise ConfigError(f"none of {len(pairs)} pairs has a score above {LEAST_SCORE}; take similar images")
    curves = np.empty((len(shared), engine.contract.dimension), np.float32)
    scores = np.empty(len(shared))
    for row, (first, second) in enumerate(shared):
        _, values = decompose.contributions(known[first], known[second])
        running = np.cumsum(values, dtype=np.float64)
        scores[row] = running[-1]
        curves[row] = running / running[-1]
    low, high = np.percentile(curves, (10, 90), axis=0)
    return ContributionCurve(
        tuple(shared), len(pairs) - len(shared), scores, curves.mean(axis=0, dtype=np.float64), low, high
    )


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How the score of pairs falls and rises as places of one image are blurred and restored.

    Attributes:
        pairs: that were measured.
        left_out: pairs whose score is below ``LEAST_SCORE``.
        shares: (steps + 1,) of the cells that are blurred (deletion) or restored (insertion).
        deletion, insertion: by the order of the cells, ``map``, ``norm`` or ``random``: (n, steps + 1)
            scores over the unaltered score.
    """

    pairs: tuple[tuple[str, str], ...]
    left_out: int
    shares: Array
    deletion: dict[str, Array]
    insertion: dict[str, Array]

    def areas(self) -> dict[str, dict[str, Array]]:
        """(n,) areas under each pair's curves: small is faithful for deletion, large for insertion."""
        widths = np.diff(self.shares)
        return {
            kind: {
                order: ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(axis=1)
                for order, values in curves.items()
            }
            for kind, curves in (("deletion", self.deletion), ("insertion", self.insertion))
        }

    def report(self) -> dict[str, Any]:
        """What ``simmap evaluate --faithfulness --json`` prints of it."""
        report: dict[str, Any] = {"pairs": len(self.pairs), "left_out": self.left_out}
        for kind, areas in self.areas().items():
            sign = -1 if kind == "deletion" else 1
            report[kind] = {
                order: {**_spread(values), "curve": getattr(self, kind)[order].mean(axis=0).tolist()}
                for order, values in areas.items()
            }
            for order in ("norm", "random"):
                better = sign * areas["map"] > sign * areas[order]
                report[kind][f"map_beats_{order}"] = float(better.mean())
        report["shares"] = self.shares.tolist()
        return report

    def draw(self, path: str | Path, *, force: bool = False) -> None:
        """Draw both kinds of curves as PNG, SVG or PDF; see ``ContributionCurve.draw`` for the errors."""
        figure, both = _figure(2)
        names = {"map": "similarity map", "norm": "activation norm", "random": "random"}
        areas = self.areas()
        for axes, kind, curves in zip(
            both, ("deletion", "insertion"), (self.deletion, self.insertion), strict=True
        ):
            for order, name in names.items():
                low, high = np.percentile(curves[order], (25, 75), axis=0)
                area = areas[kind][order]
                label = f"{name}: area {area.mean():.3f} ± {area.std():.3f}"
                (line,) = axes.plot(self.shares, curves[order].mean(axis=0), linewidth=2, label=label)
                axes.fill_between(self.shares, low, high, alpha=0.15, color=line.get_color())
            word = "blurred" if kind == "deletion" else "restored"
            axes.set(title=kind, xlabel=f"share of the cells {word}", xlim=(0, 1), ylim=(0, None))
            axes.set(ylabel="score over the unaltered score")
            axes.legend(fontsize="small")
        figure.suptitle(f"{len(self.pairs)} pairs; bands: the middle half of the pairs")
        _save(figure, path, force)


def faithfulness(
    engine: Engine,
    pairs: Sequence[tuple[str, str]],
    *,
    steps: int = 12,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Deletion and insertion for the score of a pair (after Petsiuk, Das, Saenko: RISE, BMVC 2018).

    The first image's cells are blurred in the order of its map against the second, and the score with
    the unaltered second image is measured; for insertion they are restored in a blurred image. Beside it
    stand the order of the plain activation norm ``|parts[x]|``, which knows nothing of the second image,
    and a random order.

    Args:
        engine: the network.
        pairs: paths of two images each.
        steps: how many times cells are blurred.
        seed: of the random orders.
        on_progress: called with the pairs done and their total.

    Raises:
        ConfigError: fewer than one step, or no pair's score is above ``LEAST_SCORE``.
        ImageError: an image cannot be read or embedded.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}, must be 1 or more")
    rng = np.random.default_rng(seed)
    kept: list[tuple[str, str]] = []
    curves: dict[str, dict[str, list[Array]]] = {
        kind: {order: [] for order in ("map", "norm", "random")} for kind in ("deletion", "insertion")
    }
    for done, (first, second) in enumerate(pairs):
        if on_progress is not None:
            on_progress(done, len(pairs))
        pixels = _working_copy(engine, engine.load(first))
        image, other = engine.embed([Photo(pixels, first), second])
        score = decompose.score(image.embedding, other.embedding)
        if score < LEAST_SCORE:
            continue
        kept.append((first, second))
        cells = _cells(image.geometry, *image.parts.shape[:2])
        blurred = cv2.GaussianBlur(pixels, (0, 0), BLUR * max(pixels.shape[:2]))
        direction = decompose.unit(other.embedding)
        rankings = {
            "map": image.map_against(other).ravel(),
            "norm": np.linalg.norm(image.parts, axis=2).ravel(),
            "random": rng.permutation(image.parts.shape[0] * image.parts.shape[1]),
        }
        for order, ranking in rankings.items():
            place = np.empty(len(ranking), np.intp)
            place[np.argsort(-ranking, kind="stable")] = np.arange(len(ranking))
            for kind, here, there in (("deletion", pixels, blurred), ("insertion", blurred, pixels)):
                counts = np.linspace(0, len(ranking), steps + 1).round()
                altered = (np.where((place[cells] < n)[..., None], there, here) for n in counts)
                found = [decompose.unit(vector.embedding) @ direction for vector in engine.vectors(altered)]
                curves[kind][order].append(np.array(found) / score)
    if not kept:
        raise ConfigError(f"none of {len(pairs)} pairs has a score above {LEAST_SCORE}; take similar images")
    deletion, insertion = (
        {order: np.array(values) for order, values in curves[kind].items()}
        for kind in ("deletion", "insertion")
    )
    return Faithfulness(
        tuple(kept), len(pairs) - len(kept), np.linspace(0, 1, steps + 1), deletion, insertion
    )


def _working_copy(engine: Engine, photo: Photo) -> npt.NDArray[np.uint8]:
    """The photo, no larger than the network can tell."""
    spec = engine.contract.input
    most = WORKING_SIDE * max(engine.options.size or (spec.height, spec.width))
    height, width = photo.pixels.shape[:2]
    scale = most / min(height, width)
    if scale >= 1:
        return photo.pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _cells(geometry: Geometry, height: int, width: int) -> npt.NDArray[np.intp]:
    """(photo_height, photo_width): the cell of each pixel, counted by rows; outside, the nearest one."""
    x0, y0, x1, y1 = geometry.field
    rows = np.floor((np.arange(geometry.photo_height) + 0.5 - y0) / (y1 - y0) * height)
    columns = np.floor((np.arange(geometry.photo_width) + 0.5 - x0) / (x1 - x0) * width)
    y = np.clip(rows, 0, height - 1).astype(np.intp)
    x = np.clip(columns, 0, width - 1).astype(np.intp)
    return np.asarray(y[:, None] * width + x[None])


def _spread(values: Array) -> Spread:
    low, high = np.percentile(values, (25, 75))
    return {
        "area": float(values.mean()),
        "standard_deviation": float(values.std()),
        "quartile_1": float(low),
        "quartile_3": float(high),
    }


def check_plot(path: str | Path, *, force: bool) -> Path:
    """Refuse a curve's file, or a missing matplotlib, before any work is done for it.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: another suffix than ``FORMATS``, or as for ``files.check_output``.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: curves are written as {', '.join(FORMATS)}; end the name with one")
    _figure(1)
    return check_output(path, force=force)


def _figure(panels: int) -> tuple[Any, Any]:
    """A figure for a talk's slide; drawn without a display and without pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"{error}; curves need one more package: pip install 'simmap[plot]'") from error
    figure = Figure(figsize=(7.5 * panels, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, at + 1) for at in range(panels)]
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.label.set_fontsize(13)
        one.yaxis.label.set_fontsize(13)
    return figure, axes


def _save(figure: Any, path: str | Path, force: bool) -> None:
    check_plot(path, force=force)
    with replacing(path, force=force) as temporary:
        figure.savefig(temporary, dpi=150)
