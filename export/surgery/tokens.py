"""The direct effect of every patch token on a class token's embedding: what of the graph it needs.

After Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based Decomposition"
(ICLR 2024, arXiv 2310.05916). For the attention branch l and the token k that is read, patch token t adds

    c_t = sum over l of W_O,l concat_h(a_l[h, k, t] V_l[h, t])

to the last state of k, and ``parts_t = W g (c_t - mean(c_t)) / sigma`` to the embedding, with the gain g of
the last norm, its sigma of this image's own state held, and W what follows. The rest of the embedding (the
path of token k itself, registers, MLPs, output biases) is one vector per image that no place owns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine.errors import ExportError

from .blocks import Block, Stream, find_stream
from .graph import Graph
from .patches import Grid, token_places
from .readout import Readout, match_readout


@dataclass(frozen=True)
class Tokens:
    """The tokens of a transformer whose embedding is read from a class token.

    Attributes:
        readout: which tokens are read, and how.
        blocks: the attention branches that feed them.
        branches: the tensors whose sum is the last state: the embedded patches, and each branch.
        count: T, all tokens.
        dtype: of the source's values.
        places: (H W,), the index of the patch token at each place of ``grid``, row by row.
        grid: the rows and columns of patches.
        cells: the rows and columns of the parts; patches of one cell are summed.
    """

    readout: Readout
    blocks: tuple[Block, ...]
    branches: tuple[str, ...]
    count: int
    dtype: np.dtype[Any]
    places: npt.NDArray[np.intp]
    grid: Grid
    cells: Grid

    @property
    def is_coarse(self) -> bool:
        """Whether some cells hold several patches."""
        return self.cells != self.grid

    def cell_of(self) -> npt.NDArray[np.bool_]:
        """(cells, T): which tokens lie in which cell; class tokens and registers lie in none."""
        height, width = self.grid
        rows = np.arange(height) // (height // self.cells[0])
        columns = np.arange(width) // (width // self.cells[1])
        cell = (rows[:, None] * self.cells[1] + columns).reshape(-1)
        member = np.zeros((self.cells[0] * self.cells[1], self.count), dtype=bool)
        member[cell, self.places] = True
        return member


def find_tokens(graph: Graph, target: str, cells: Grid | None) -> Tokens | None:
    """The tokens that ``target`` is read from; None if it is not read from single tokens.

    Args:
        graph: the network.
        target: the tensor that is the embedding.
        cells: rows and columns of the parts, which must divide those of the patches; None takes these.

    Raises:
        ExportError: it is read from a class token, but not of a pre-norm transformer whose patches lie on a
            grid; the message names the node. Or ``cells`` do not divide the grid.
    """
    matches = (match_readout(graph, tensor) for tensor in graph.dominators(target))
    readouts = [match for match in matches if match is not None]
    if not readouts:
        return None
    readout, stream = _first_stream(graph, readouts)
    count = graph.shape(readout.state)[1]
    places, grid = token_places(graph, stream.start, count)
    if set(readout.tokens) & set(places.tolist()):
        raise ExportError(f"{graph.name}: the embedding is the token of one patch, not a class token")
    if cells is not None and any(whole % part for whole, part in zip(grid, cells, strict=True)):
        raise ExportError(
            f"grid is {cells[0]}x{cells[1]}; {graph.name} has {grid[0]} x {grid[1]} patches: give rows that "
            f"divide {grid[0]} and columns that divide {grid[1]}"
        )
    branches = (stream.start, *stream.branches)
    dtype = graph.values[stream.blocks[0].values].dtype
    return Tokens(readout, stream.blocks, branches, count, dtype, places, grid, cells or grid)


def _first_stream(graph: Graph, readouts: list[Readout]) -> tuple[Readout, Stream]:
    """The last readout that reads a residual stream: a norm in the tail of the token looks like the last one.

    Raises:
        ExportError: none does; what it says of the last one.
    """
    refusal: ExportError | None = None
    for readout in readouts:
        try:
            return readout, find_stream(graph, readout.state, graph.shape(readout.state)[1])
        except ExportError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def one_size(name: str) -> ExportError:
    """The refusal of free sizes."""
    return ExportError(
        f"{name}: is a transformer, whose position embeddings fix the number of its patches; leave --dynamic "
        "out and give --size"
    )
