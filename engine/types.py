"""Names for what arrays hold, shared by the whole engine."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Corners = tuple[float, float, float, float]
Rgb = tuple[int, int, int]
Triple = tuple[float, float, float]
