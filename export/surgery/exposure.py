"""Where a graph's feature map or tokens lie, and what follows them."""

from dataclasses import dataclass

import numpy as np

from simmap.engine.contract import Head, Pooling, Rest
from simmap.engine.types import Array

from .affine import Affine
from .attention import Attention
from .layout import Layout
from .steps import Gated
from .tokens import Tokens


@dataclass(frozen=True)
class Exposure:
    """Where a graph's feature map lies and what follows it.

    Attributes:
        conv: name of the tensor that is the feature map; for pooling ``token`` the last state of all tokens.
        layout: its axes; ``NLC`` are tokens in row-major order of the grid.
        shape: C, H, W of the map, or of the tokens and their parts.
        pooling, p, eps: see ``engine.contract.Contract``.
        place_weights: (C, H, W) of pooling ``weights``.
        place_bias: (C,) of pooling ``weights``.
        tail: the affine map from the pooled (or flattened, in C, H, W order) feature, or from the class
            token, to the embedding, or to where ``gated`` begins; None where nothing follows.
        gated: the rest of the way, where it is not one affine map.
        attention: of pooling ``attention``.
        tokens: of pooling ``token``, what is read and what feeds it.
        pooled: name of the tensor that is the pooled feature, None for an overridden pooling.
        embedding: name of the tensor that is the embedding, before any final L2 norm; None likewise.
        pooled_scale: the source's pooled feature is this times ours (a sum is H W times the average).
        is_normed: the source divides the embedding by its L2 norm at the end, which the artifact leaves out.
        notes: what a user should know of the choices made here.
    """

    conv: str
    layout: Layout
    shape: tuple[int, int, int]
    pooling: Pooling
    p: float | None = None
    eps: float | None = None
    place_weights: Array | None = None
    place_bias: Array | None = None
    tail: Affine | None = None
    gated: Gated | None = None
    attention: Attention | None = None
    tokens: Tokens | None = None
    pooled: str | None = None
    embedding: str | None = None
    pooled_scale: float = 1.0
    is_normed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> Head:
        """What the contract calls the way behind the pooling."""
        if self.tokens is not None or (self.gated is not None and not self.gated.is_affine):
            return "gated"
        is_affine = self.tail is not None or self.gated is not None
        return "affine" if is_affine or self.pooling in ("weights", "flatten") else "none"

    @property
    def has_head(self) -> bool:
        """Whether the artifact computes ``embedding`` and ``parts`` itself."""
        return self.head != "none"

    @property
    def rest(self) -> Rest:
        """Whether what no place owns is the same for all images."""
        depends = self.tokens is not None or (self.gated is not None and self.gated.bias is None)
        return "image" if depends else "constant"

    @property
    def pooled_channels(self) -> int:
        """C', the size of the pooled feature."""
        return self.shape[0] * (2 if self.pooling == "catavgmax" else 1)

    @property
    def dimension(self) -> int:
        """D, the size of the embedding."""
        if self.gated is not None:
            return self.gated.dimension
        return self.pooled_channels if self.tail is None else self.tail.dimension

    @property
    def tail_bias(self) -> Array | None:
        """What no place owns behind the pooling and ``tail``, before ``gated``, float64; None if nothing."""
        if self.tail is None and self.place_bias is None:
            return None
        bias = np.zeros(self.pooled_channels) if self.tail is None else self.tail.bias
        if self.place_bias is not None:
            bias = bias + (self.place_bias if self.tail is None else self.tail.applied(self.place_bias))
        return bias

    @property
    def bias(self) -> Array | None:
        """The part b (D,) of the embedding that no place owns, float64.

        None without a head, if it is zero or if it depends on the image.
        """
        if self.rest == "image":
            return None
        bias = self.tail_bias if self.gated is None else self.gated.bias
        return bias if bias is not None and bias.any() else None
