"""Curves by matplotlib, drawn without a display: as pixels, or as PNG, SVG or PDF."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, OutputError
from ..files import check_output, replacing
from ..types import Pixels
from .figure import Figure

FORMATS = (".png", ".svg", ".pdf")


class CurveFigure(Figure):
    """A figure that matplotlib draws."""

    @abstractmethod
    def plot(self) -> Any:
        """The curves as a matplotlib ``Figure``.

        Raises:
            ConfigError: matplotlib is not installed.
        """

    def picture(self) -> Pixels:
        """The curves, uint8 RGB (h, w, 3); see ``plot`` for the errors."""
        canvas = self.plot().canvas
        canvas.draw()
        return np.array(canvas.buffer_rgba(), np.uint8)[..., :3].copy()

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the curves as PNG, SVG or PDF, atomically.

        Raises:
            ConfigError: matplotlib is not installed.
            OutputError: another suffix, a file that exists without ``force``, or one that cannot be
                written.
        """
        check_curve(path, force=force)
        with replacing(path, force=force) as temporary:
            self.plot().savefig(temporary, dpi=150)


def check_curve(path: str | Path, *, force: bool) -> Path:
    """Refuse a curve's file, or a missing matplotlib, before any work is done for it.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: another suffix than ``FORMATS``, or as for ``files.check_output``.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: curves are written as {', '.join(FORMATS)}; end the name with one")
    new_plot(1)
    return check_output(path, force=force)


def new_plot(panels: int) -> tuple[Any, Any]:
    """An empty matplotlib figure of some panels side by side, and their axes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Plot
    except ImportError as error:
        raise ConfigError(f"{error}; curves need one more package: pip install 'simmap[plot]'") from error
    figure = Plot(figsize=(7.5 * panels, 5.2), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which has a global state and may want a display
    axes = [figure.add_subplot(1, panels, at + 1) for at in range(panels)]
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.label.set_fontsize(13)
        one.yaxis.label.set_fontsize(13)
    return figure, axes
