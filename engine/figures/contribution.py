"""The curve of how few features make a score (figure 3 of arXiv 1901.00536)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.contribution import MARKED, ContributionCurve
from .curve import CurveFigure, new_plot


@dataclass(frozen=True)
class ContributionFigure(CurveFigure):
    """The mean share of the score against the number of features, with its spread over the pairs.

    Attributes:
        curve: over many pairs.
    """

    curve: ContributionCurve

    def data(self) -> dict[str, Any]:
        """The curve, and its value at ``MARKED`` features."""
        curve = self.curve
        k = min(MARKED, len(curve.mean))
        return {
            "pairs": len(curve.pairs),
            "left_out": curve.left_out,
            "mean_score": float(curve.scores.mean()),
            f"top_{k}": {
                "mean": float(curve.mean[k - 1]),
                "percentile_10": float(curve.low[k - 1]),
                "percentile_90": float(curve.high[k - 1]),
            },
            "mean": curve.mean.tolist(),
            "percentile_10": curve.low.tolist(),
            "percentile_90": curve.high.tolist(),
        }

    def plot(self) -> Any:
        """The curve as a matplotlib ``Figure``; see ``CurveFigure.plot`` for the errors."""
        curve = self.curve
        figure, (axes,) = new_plot(1)
        features = np.arange(1, len(curve.mean) + 1)
        axes.fill_between(
            features, curve.low, curve.high, alpha=0.2, label="10th to 90th percentile of the pairs"
        )
        axes.plot(features, curve.mean, linewidth=2, label=f"mean of {len(curve.pairs)} pairs")
        k = min(MARKED, len(curve.mean))
        axes.plot(k, curve.mean[k - 1], "o", color="black")
        axes.annotate(
            f"{k} of {len(curve.mean)} features: {curve.mean[k - 1]:.0%}",
            (k, curve.mean[k - 1]), xytext=(12, -18), textcoords="offset points",
        )  # fmt: skip
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlim=(1, len(curve.mean)), xlabel="features, largest contribution first")
        axes.set(ylim=(0, None), ylabel="share of the score")
        axes.legend(loc="lower right")
        return figure
