"""The curves of how the score falls and rises as cells are blurred and restored."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.faithfulness import Faithfulness
from ..types import Array
from .curve import CurveFigure, new_plot


@dataclass(frozen=True)
class FaithfulnessFigure(CurveFigure):
    """Deletion and insertion side by side, a curve for each order of the cells.

    Attributes:
        faithfulness: the scores of many pairs.
    """

    faithfulness: Faithfulness

    def data(self) -> dict[str, Any]:
        """Areas and mean curves by order, and the share of pairs on which the map's order is better."""
        measured = self.faithfulness
        report: dict[str, Any] = {"pairs": len(measured.pairs), "left_out": measured.left_out}
        for kind, areas in measured.areas().items():
            sign = -1 if kind == "deletion" else 1
            report[kind] = {
                order: {**_spread(values), "curve": getattr(measured, kind)[order].mean(axis=0).tolist()}
                for order, values in areas.items()
            }
            for order in ("norm", "random"):
                better = sign * areas["map"] > sign * areas[order]
                report[kind][f"map_beats_{order}"] = float(better.mean())
        report["shares"] = measured.shares.tolist()
        return report

    def plot(self) -> Any:
        """The curves as a matplotlib ``Figure``; see ``CurveFigure.plot`` for the errors."""
        measured = self.faithfulness
        figure, both = new_plot(2)
        names = {"map": "similarity map", "norm": "activation norm", "random": "random"}
        areas = measured.areas()
        for axes, kind, curves in zip(
            both, ("deletion", "insertion"), (measured.deletion, measured.insertion), strict=True
        ):
            for order, name in names.items():
                low, high = np.percentile(curves[order], (25, 75), axis=0)
                area = areas[kind][order]
                label = f"{name}: area {area.mean():.3f} ± {area.std():.3f}"
                (line,) = axes.plot(measured.shares, curves[order].mean(axis=0), linewidth=2, label=label)
                axes.fill_between(measured.shares, low, high, alpha=0.15, color=line.get_color())
            word = "blurred" if kind == "deletion" else "restored"
            axes.set(title=kind, xlabel=f"share of the cells {word}", xlim=(0, 1), ylim=(0, None))
            axes.set(ylabel="score over the unaltered score")
            axes.legend(fontsize="small")
        figure.suptitle(f"{len(measured.pairs)} pairs; bands: the middle half of the pairs")
        return figure


def _spread(values: Array) -> dict[str, float]:
    low, high = np.percentile(values, (25, 75))
    return {
        "area": float(values.mean()),
        "standard_deviation": float(values.std()),
        "quartile_1": float(low),
        "quartile_3": float(high),
    }
