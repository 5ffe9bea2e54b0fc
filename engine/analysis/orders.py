"""Maps of an image by which its places can be ordered: ours, and those of other methods.

The other methods need the derivative of the cosine by the activations. On the last feature map it has a
closed form for every pooling, so that no autograd and no PyTorch is needed.
"""

from collections.abc import Iterable

import numpy as np

from .. import decompose
from ..contract import Contract
from ..results import Activated, Vector
from ..types import Array

# The words of tables and curves.
NAMES = {
    "map": "similarity map",
    "influence": "influence",
    "mean": "mean of map and influence",
    "grad_cam": "Grad-CAM",
    "layer_cam": "LayerCAM",
    "gradient_x_activation": "gradient x activation",
    "eigen_cam": "EigenCAM",
    "norm": "activation norm",
    "occlusion": "occlusion",
    "token_cosine": "token cosine",
    "last_attention": "last attention",
    "random": "random",
}


def skipped_orders(contract: Contract, orders: Iterable[str]) -> dict[str, str]:
    """Of the orders that an artifact might have, those that are not among ``orders``, and why."""
    skipped = {}
    if contract.has_parts or contract.pooling == "avg":
        skipped["gradient_x_activation"] = "it is the influence here"
    if contract.pooling == "token" and "token_cosine" not in orders:
        skipped |= dict.fromkeys(
            ("token_cosine", "last_attention"), "an older simmap exported the model; export it again"
        )
    if contract.pooling == "attention":
        skipped |= dict.fromkeys(("token_cosine", "last_attention"), "it is for class tokens")
    return skipped


def pooling_gradient(
    alpha: Array,
    gradient: Array,
    pooling: str,
    *,
    p: float | None = None,
    eps: float = decompose.GEM_EPS,
) -> Array:
    """The derivative by each activation, from that by each pooled feature.

    With ``g_c`` the derivative by ``beta_c``, that by ``alpha[c, x]`` is

    - ``avg``: ``g_c / (H W)``;
    - ``max``: ``g_c / N_c`` where alpha is the channel's maximum, which ``N_c`` places share, else 0;
    - ``gem``: ``g_c (alpha / beta_c)^(p - 1) / (H W)`` where alpha is above ``eps``, else 0;
    - ``avgmax`` and ``catavgmax``: the half sum, and the sum by the two halves of ``g``, of the first two.

    Args:
        alpha: (C, H, W).
        gradient: g (C,), or (2 C,) for ``catavgmax``.
        pooling, p, eps: as for ``decompose.pool``.

    Returns:
        (C, H, W) float64.

    Raises:
        DecompositionError: as for ``decompose.pool``.
    """
    alpha, each = alpha.astype(np.float64), gradient.astype(np.float64)[:, None, None]
    if pooling == "avgmax":
        half = gradient / 2
        return pooling_gradient(alpha, half, "avg") + pooling_gradient(alpha, half, "max")
    if pooling == "catavgmax":
        average, maximum = np.split(gradient, 2)
        return pooling_gradient(alpha, average, "avg") + pooling_gradient(alpha, maximum, "max")
    beta = decompose.pool(alpha, pooling, p=p, eps=eps)[:, None, None]
    places = alpha.shape[1] * alpha.shape[2]
    if pooling == "avg":
        return np.broadcast_to(each / places, alpha.shape)
    above = alpha > eps if pooling == "gem" else np.ones(alpha.shape, bool)
    if pooling == "max" or p is None or np.isinf(p):
        winners = above & (alpha == beta)
        return np.asarray(each * winners / np.maximum(winners.sum(axis=(1, 2), keepdims=True), 1))
    slope = (np.maximum(alpha, eps) / beta) ** (p - 1)
    return np.asarray(each * slope * above / places)


def activations_and_gradient(image: Activated, other: Vector, contract: Contract) -> tuple[Array, Array]:
    """The activations (C, H, W) of an image, and the derivative of its cosine with ``other`` by each.

    Without a head the activations are the last feature map. With one the graph computes ``parts``, which
    then are the activations; their derivative ``(u_j - s u_i) / |e_i|`` is the same at every place.
    """
    direction = decompose.influence_direction(image.embedding, decompose.unit(other.embedding))
    gradient = direction / np.linalg.norm(image.embedding)
    if image.alpha is None:
        return np.moveaxis(image.parts, -1, 0), np.broadcast_to(gradient, image.parts.shape).transpose(
            2, 0, 1
        )
    eps = decompose.GEM_EPS if contract.eps is None else contract.eps
    return image.alpha, pooling_gradient(image.alpha, gradient, contract.pooling, p=contract.p, eps=eps)


def order_maps(image: Activated, other: Vector, contract: Contract) -> dict[str, Array]:
    """The maps (H, W) of an image against another by each method that needs only this one run.

    With A the activations, G the derivative of the cosine by them (see ``activations_and_gradient``) and
    M and s the similarity map and the score:

    - ``map``: M; ``influence``: ``M - s S``, S the image's map against itself; ``mean``: ``M - s S / 2``;
    - ``grad_cam``: ``max(0, sum over c of mean(G_c) A_c)`` (Selvaraju et al., ICCV 2017);
    - ``layer_cam``: ``max(0, sum over c of max(0, G_c) A_c)`` (Jiang et al., TIP 2021);
    - ``gradient_x_activation``: ``sum over c of G_c A_c``; left out for average pooling and behind a head,
      where it is the influence;
    - ``eigen_cam``: the projection of A on its first principal component, not centred, with the sign that
      makes its sum positive (Muhammad and Yeasin, IJCNN 2020); it does not know the other image;
    - ``norm``: ``|A[:, x]|``; it does not know the other image either;
    - ``token_cosine``: of a class token's network, the cosine of the embedding that each cell's patches would
      give in the class token's place with the other image's embedding;
    - ``last_attention``: how the class token attends to each cell in the last block, the mean over the heads;
      it does not know the other image either.
    """
    activations, gradient = activations_and_gradient(image, other, contract)
    values, influence = image.map_against(other), image.map_against(other, "influence")
    weights = gradient.mean(axis=(1, 2))
    flat = activations.reshape(len(activations), -1)
    component = np.linalg.svd(flat, full_matrices=False)[2][0].reshape(values.shape)
    maps = {
        "map": values,
        "influence": influence,
        "mean": (values + influence) / 2,
        "grad_cam": np.maximum(np.tensordot(weights, activations, 1), 0),
        "layer_cam": np.maximum((np.maximum(gradient, 0) * activations).sum(axis=0), 0),
        "gradient_x_activation": (gradient * activations).sum(axis=0),
        "eigen_cam": component if component.sum() >= 0 else -component,
        "norm": np.linalg.norm(activations, axis=0),
    }
    if "gradient_x_activation" in skipped_orders(contract, maps):
        del maps["gradient_x_activation"]
    if image.tokens is not None and image.attention is not None:
        lengths = np.linalg.norm(image.tokens, axis=2) * np.linalg.norm(other.embedding)
        products = image.tokens @ other.embedding
        maps["token_cosine"] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        maps["last_attention"] = image.attention
    return maps
