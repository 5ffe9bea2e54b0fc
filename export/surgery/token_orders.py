"""What other methods order patch tokens by: their own last states, and how the class token attends to them.

The artifact does not compute these in an ordinary run (see ``optional``).
"""

import numpy as np
from onnx import TensorProto

from .affine import Affine
from .carrying import add_tail_values
from .nodes import Nodes
from .steps import Gated
from .token_parts import add_head, add_norm, cell_shares
from .tokens import Tokens


def add_token_states(
    nodes: Nodes, tokens: Tokens, tail: Affine | None, gated: Gated | None, states: str
) -> str:
    """``tokens`` (N, H, W, D): what the embedding would be if each cell's patches were the class token.

    The last state of each patch passes the last norm, the mean over the patches of a cell what follows it.

    Args:
        nodes: the artifact under construction, which has its head.
        tokens, tail, gated: as for ``add_token_head``.
        states: the last states of all tokens (N, T, C).
    """
    readout = tokens.readout
    states = nodes.add("Cast", [states], "token_states", to=TensorProto.FLOAT)
    if readout.norm is not None:
        states, _ = add_norm(nodes, states, readout.norm, "token_")
    shares = nodes.floats(cell_shares(tokens) * sum(readout.weights), "token_cells")
    states = nodes.add("MatMul", [shares, states], "token_cell_states")  # (N, cells, C)
    channels = len(tokens.blocks[-1].bias())
    flat = nodes.constant(np.array([-1, channels], dtype=np.int64), "token_rows_shape")
    vector, dimension = add_head(
        nodes, tokens, tail, nodes.add("Reshape", [states, flat], "token_rows"), "token_"
    )
    if gated is not None:
        vector, dimension = add_tail_values(nodes, gated, vector), gated.dimension
    grid = nodes.constant(np.array([-1, *tokens.cells, dimension], dtype=np.int64), "tokens_shape")
    return nodes.add("Reshape", [vector, grid], "tokens")


def add_last_attention(nodes: Nodes, tokens: Tokens, rows: str) -> str:
    """``last_attention`` (N, H, W): the weights of the last block's attention, summed over each cell.

    The mean over the heads, and over the tokens that are read.

    Args:
        nodes: the artifact under construction.
        tokens: of the network.
        rows: the weights of the tokens that are read, (N, heads, K, T) or (N heads, K, T).
    """
    block, read = tokens.blocks[-1], len(tokens.readout.tokens)
    rows = nodes.add("Cast", [rows], "attention_rows", to=TensorProto.FLOAT)
    shape = nodes.constant(np.array([-1, block.heads * read, tokens.count], np.int64), "attention_shape")
    rows = nodes.add("Reshape", [rows, shape], "attention_heads")  # (N, heads K, T)
    mean = nodes.floats(np.full((1, block.heads * read), 1 / (block.heads * read)), "attention_mean")
    mean = nodes.add("MatMul", [mean, rows], "attention_token")  # (N, 1, T)
    member = nodes.floats(tokens.cell_of().T.astype(np.float64), "attention_cells")
    each = nodes.add("MatMul", [mean, member], "attention_each")
    grid = nodes.constant(np.array([-1, *tokens.cells], dtype=np.int64), "attention_grid")
    return nodes.add("Reshape", [each, grid], "last_attention")
