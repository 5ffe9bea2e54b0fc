"""The curves of how the score falls and rises as blocks are removed and restored, and their areas."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.composites import Composites
from ..analysis.faithfulness import KINDS, Faithfulness
from ..analysis.orders import NAMES
from .curve import CurveFigure, new_plot

LEAST_PAIRS = 10  # an interval of fewer says too little to compare orders by it


@dataclass(frozen=True)
class FaithfulnessFigure(CurveFigure):
    """Deletion and insertion side by side, a curve for each order of the blocks.

    Attributes:
        faithfulness: the scores of many pairs.
        composites: of halves that match and do not, if any were made.
    """

    faithfulness: Faithfulness
    composites: Composites | None = None

    def data(self) -> dict[str, Any]:
        """What each order is worth, by what removed blocks show.

        For each order: the mean areas of deletion and insertion; their ``difference`` with its 95 % interval;
        the ``gain``, how far that lies above the map's, with its interval; the share of the pairs on which it
        ``beats_map``; and the mean curves. ``better`` names the orders whose gain has an interval above 0,
        ``worse`` those below 0: none for fewer than ``LEAST_PAIRS`` pairs. ``composites`` gives the share of
        composites whose matching half is the hotter one.
        """
        measured = self.faithfulness
        enough = len(measured.pairs) >= LEAST_PAIRS
        report: dict[str, Any] = {
            "pairs": len(measured.pairs),
            "left_out": measured.left_out,
            "shares": measured.shares.tolist(),
            "baselines": {baseline: self._orders(baseline) for baseline in measured.curves},
        }
        for word, side in (("better", 1), ("worse", -1)):
            report[word] = {
                baseline: [
                    name
                    for name, one in orders.items()
                    if enough and min(side * g for g in one["gain_interval"]) > 0
                ]
                for baseline, orders in report["baselines"].items()
            }
        made = self.composites
        if made is not None:
            hotter = {order: float(each.mean()) for order, each in made.hotter.items()}
            report["composites"] = {"count": made.count, "matching_half_is_hotter": hotter}
        report["skipped"] = measured.skipped
        return report

    def _orders(self, baseline: str) -> dict[str, Any]:
        measured = self.faithfulness
        differences = measured.differences(baseline)
        areas = {kind: measured.areas(baseline, kind) for kind in KINDS}
        orders = {}
        for order, values in differences.items():
            gain = values - differences["map"]
            orders[order] = {
                **{kind: float(areas[kind][order].mean()) for kind in KINDS},
                "difference": float(values.mean()),
                "interval": list(measured.interval(values)),
                "gain": float(gain.mean()),
                "gain_interval": list(measured.interval(gain)),
                "beats_map": float((gain > 0).mean()),
                "curves": {
                    kind: measured.curves[baseline][kind][order].mean(axis=0).tolist() for kind in KINDS
                },
            }
        return orders

    def plot(self) -> Any:
        """The curves of blurred blocks as a matplotlib ``Figure``; see ``CurveFigure.plot`` for errors."""
        measured = self.faithfulness
        figure, both = new_plot(2)
        for axes, kind in zip(both, KINDS, strict=True):
            areas = measured.areas("blur", kind)
            for order, curves in measured.curves["blur"][kind].items():
                label = f"{NAMES[order]}: area {areas[order].mean():.3f}"
                width = 3 if order == "map" else 1.3
                (line,) = axes.plot(measured.shares, curves.mean(axis=0), linewidth=width, label=label)
                if order == "map":
                    low, high = np.percentile(curves, (25, 75), axis=0)
                    axes.fill_between(measured.shares, low, high, alpha=0.15, color=line.get_color())
            word = "blurred" if kind == "deletion" else "restored"
            axes.set(title=kind, xlabel=f"share of the blocks {word}", xlim=(0, 1), ylim=(0, None))
            axes.set(ylabel="score over the unaltered score")
            axes.legend(fontsize="small")
        figure.suptitle(f"{len(measured.pairs)} pairs; band: the middle half of the pairs, by the map")
        return figure
