"""Small transformers with random weights, and what their tokens add, by hooks in float64."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

Array = npt.NDArray[Any]
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def randomised(network: nn.Module) -> nn.Module:
    """Weights of a size at which every block and every bias matters."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        is_scale = parameter.ndim == 1 and ("norm" in name or "gamma" in name or "ln_" in name)
        is_scale = is_scale and not name.endswith("bias")
        with torch.no_grad():
            values = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(1 + 0.3 * values if is_scale else values / fan_in**0.5)
    return network.eval().requires_grad_(False)


def _timm(name: str, **options: Any) -> nn.Module:
    return randomised(timm.create_model(name, **{"num_classes": 0, **SMALL, **options}))


def vit() -> nn.Module:
    return _timm("vit_tiny_patch16_224", img_size=(48, 64))


def deit() -> nn.Module:
    return _timm("deit_tiny_distilled_patch16_224", img_size=64)


def dinov2() -> nn.Module:
    return _timm("vit_small_patch14_reg4_dinov2", img_size=56)


def dinov3() -> nn.Module:
    return _timm("vit_small_patch16_dinov3", img_size=64, global_pool="token")


def clip() -> nn.Module:
    return _timm("vit_base_patch32_clip_quickgelu_224", img_size=64, patch_size=16, num_classes=32)


def eva02() -> nn.Module:
    return _timm("eva02_tiny_patch14_224", img_size=56, global_pool="token")


def beit() -> nn.Module:
    return _timm("beit_base_patch16_224", img_size=64, global_pool="token", init_values=0.1)


def torchvision() -> nn.Module:
    network = VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96
    )
    network.heads = nn.Identity()
    return randomised(network)


class OpenClip(nn.Module):
    """The image tower of CLIP as its authors wrote it: tokens first, then the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 48, 16, 16, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(48))
        self.positional_embedding = nn.Parameter(torch.zeros(17, 48))
        self.ln_pre, self.ln_post = nn.LayerNorm(48), nn.LayerNorm(48)
        self.blocks = nn.ModuleList(_OpenClipBlock() for _ in range(2))
        self.proj = nn.Parameter(torch.zeros(48, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        first = self.class_embedding + torch.zeros(x.shape[0], 1, 48, dtype=x.dtype)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding).permute(1, 0, 2)
        for block in self.blocks:
            x = block(x)
        x = self.ln_post(x.permute(1, 0, 2)[:, 0, :]) @ self.proj
        return x / x.norm(dim=1, keepdim=True)


class _OpenClipBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(48), nn.LayerNorm(48)
        self.attn = nn.MultiheadAttention(48, 3)
        self.fc, self.out = nn.Linear(48, 96), nn.Linear(96, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        hidden = self.fc(self.ln_2(x))
        return x + self.out(hidden * torch.sigmoid(1.702 * hidden))


def openclip() -> nn.Module:
    return randomised(OpenClip())


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "deit": deit,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "clip": clip,
    "eva02": eva02,
    "beit": beit,
    "torchvision": torchvision,
    "openclip": openclip,
}


def size_of(family: str) -> tuple[int, int]:
    """Height and width of the input."""
    return {"vit": (48, 64), "dinov2": (56, 56), "eva02": (56, 56)}.get(family, (64, 64))


def direct_effect(network: Any, images: Array) -> tuple[Array, Array]:
    """The embedding and what each patch token adds to it by every block's attention, in float64.

    Args:
        network: of one of the families.
        images: (N, 3, height, width), normalised.

    Returns:
        (N, D) and (N, patches, D).
    """
    rows = _of_each(network, images)
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def token_orders(network: Any, images: Array) -> tuple[Array, Array]:
    """What other methods order patches by, in float64.

    Returns:
        (N, patches, D) the embedding that each patch would give as the class token, and (N, patches) the
        class token's attention in the last block, the mean over the heads and the tokens that are read.
    """
    rows = _of_each(network, images)
    return np.stack([row[2] for row in rows]), np.stack([row[3] for row in rows])


def _of_each(network: Any, images: Array) -> list[tuple[Array, Array, Array, Array]]:
    network = copy.deepcopy(network).double()
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with torch.no_grad():
        return [_of_one(network, torch.from_numpy(image[None])) for image in images.astype(np.float64)]


def _of_one(network: Any, image: torch.Tensor) -> tuple[Array, Array, Array, Array]:
    blocks = network.encoder.layers if isinstance(network, VisionTransformer) else network.blocks
    norm = getattr(network, "norm", None) or getattr(network, "ln_post", None) or network.encoder.ln
    seen: dict[str, list[Array]] = {"x": [], "norm": []}
    handles = [
        _attention(block).register_forward_pre_hook(
            lambda _m, args, kwargs: seen["x"].append(_rows(args[0] if args else kwargs["query"])),
            with_kwargs=True,
        )
        for block in blocks
    ]
    handles.append(norm.register_forward_pre_hook(lambda _m, args: seen["norm"].append(_rows(args[0]))))
    last: list[Array] = []
    handles.append(blocks[-1].register_forward_hook(lambda _m, _a, output: last.append(_rows(output))))
    weights: list[Array] = []
    for block in blocks:
        drop = getattr(_attention(block), "attn_drop", None)
        if drop is not None:
            handles.append(
                drop.register_forward_pre_hook(lambda _m, a: weights.append(a[0][0].numpy().copy()))
            )
    embedding = network(image)[0].numpy()
    for handle in handles:
        handle.remove()
    state = seen["norm"][0]
    reads = [0, 1] if getattr(network, "dist_token", None) is not None else [0]
    count = len(seen["x"][0])
    effects = np.zeros((len(reads), count, state.shape[1]))
    for at, block in enumerate(blocks):
        x, attention = seen["x"][at], _attention(block)
        matrix, bias, heads = _projection(attention)
        _, _, value = np.split(x @ matrix.T + bias, 3, axis=1)
        if len(weights) <= at:
            weights.append(_softmax_weights(x, matrix, bias, heads))
        width = value.shape[1] // heads
        out = attention.proj if hasattr(attention, "proj") else attention.out_proj
        scale = _layer_scale(block)
        for k, read in enumerate(reads):
            for t in range(count):
                concatenated = np.zeros(value.shape[1])
                for h in range(heads):
                    at_head = slice(h * width, (h + 1) * width)
                    concatenated[at_head] = weights[at][h, read, t] * value[t, at_head]
                effects[k, t] += scale * (out.weight.numpy() @ concatenated)
    gain = norm.weight.numpy()
    parts = np.zeros((count, state.shape[1]))
    for k, read in enumerate(reads):
        row = state[read] if len(state) > 1 else state[0]
        sigma = np.sqrt(row.var() + norm.eps)
        for t in range(count):
            parts[t] += gain * (effects[k, t] - effects[k, t].mean()) / sigma / len(reads)
    tokens = norm(torch.from_numpy(last[0]))
    if isinstance(network, OpenClip):
        parts, tokens = parts @ network.proj.numpy(), tokens @ network.proj
    elif isinstance(getattr(network, "head", None), nn.Linear):
        parts, tokens = parts @ network.head.weight.numpy().T, network.head(tokens)
    prefix = getattr(network, "num_prefix_tokens", 1)
    attention = weights[-1][:, reads].mean(axis=(0, 1))
    return embedding, parts[prefix:], tokens.numpy()[prefix:], attention[prefix:]


def _attention(block: Any) -> Any:
    return block.attn if hasattr(block, "attn") else block.self_attention


def _rows(x: torch.Tensor) -> Array:
    """(T, C) of the one image, whichever axis is the batch."""
    return x.reshape(-1, x.shape[-1]).numpy().copy()


def _projection(attention: Any) -> tuple[Array, Array, int]:
    """The matrix and bias of queries, keys and values, and the number of heads."""
    if isinstance(attention, nn.MultiheadAttention):
        return attention.in_proj_weight.numpy(), attention.in_proj_bias.numpy(), attention.num_heads
    matrix = attention.qkv.weight.numpy()
    if attention.qkv.bias is not None:
        return matrix, attention.qkv.bias.numpy(), attention.num_heads
    if getattr(attention, "q_bias", None) is not None:
        query, value = attention.q_bias.numpy(), attention.v_bias.numpy()
        return matrix, np.concatenate([query, np.zeros_like(query), value]), attention.num_heads
    return matrix, np.zeros(len(matrix)), attention.num_heads


def _softmax_weights(x: Array, matrix: Array, bias: Array, heads: int) -> Array:
    """(heads, T, T), written out."""
    query, key, _ = np.split(x @ matrix.T + bias, 3, axis=1)
    width = query.shape[1] // heads
    rows = []
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        scores = np.exp(query[:, at] @ key[:, at].T / width**0.5)
        rows.append(scores / scores.sum(axis=1, keepdims=True))
    return np.stack(rows)


def _layer_scale(block: Any) -> Array:
    """The scale of the attention branch."""
    for owner, name in ((getattr(block, "ls1", None), "gamma"), (block, "gamma_1")):
        gamma = getattr(owner, name, None)
        if gamma is not None:
            return np.asarray(gamma.numpy())
    return np.ones(1)


class _Refused(nn.Module):
    """A transformer of two blocks with one thing that cannot be decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 16, 16)
        self.first = nn.Parameter(torch.zeros(1, 1, 48))
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(4))
        self.norm = nn.LayerNorm(48)
        self.qkv = nn.ModuleList(nn.Linear(48, 144) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(48, 48) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48)) for _ in range(2)
        )
        self.mix = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], dim=1)
        for i in range(2):
            x = self.block(x, i)
        return self.readout(x)

    def block(self, x: torch.Tensor, i: int) -> torch.Tensor:
        x = x + self.attention(self.norms[2 * i](x), i)
        return x + self.mlp[i](self.norms[2 * i + 1](x))

    def readout(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)[:, 0]

    def attention(self, x: torch.Tensor, i: int) -> torch.Tensor:
        n, t, _ = x.shape
        query, key, value = self.qkv[i](x).reshape(n, t, 3, 3, 16).permute(2, 0, 3, 1, 4)
        weights = self.weights(query @ key.transpose(2, 3) / 4)
        return self.out[i](self.gate(weights @ value).transpose(1, 2).reshape(n, t, 48))

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.softmax(dim=3)

    def gate(self, values: torch.Tensor) -> torch.Tensor:
        return values


class PostNorm(_Refused):
    """BERT's order: the norm comes behind the sum."""

    def block(self, x: torch.Tensor, i: int) -> torch.Tensor:
        x = self.norms[2 * i](x + self.attention(x, i))
        return self.norms[2 * i + 1](x + self.mlp[i](x))

    def readout(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


class BranchNorm(_Refused):
    """Swin v2's order: the norm comes behind the branch."""

    def block(self, x: torch.Tensor, i: int) -> torch.Tensor:
        x = x + self.norms[2 * i](self.attention(x, i))
        return x + self.norms[2 * i + 1](self.mlp[i](x))


class TalkingHeads(_Refused):
    """Attention weights are mixed between the heads, behind their softmax."""

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        return self.mix(scores.softmax(dim=3).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gated(_Refused):
    """The heads pass an activation."""

    def gate(self, values: torch.Tensor) -> torch.Tensor:
        return values.tanh()


class Merged(_Refused):
    """Pairs of tokens are merged behind the first block."""

    def block(self, x: torch.Tensor, i: int) -> torch.Tensor:
        x = super().block(x, i)
        return torch.cat([x[:, :1], (x[:, 1::2] + x[:, 2::2]) / 2], dim=1) if i == 0 else x


class Exponential(_Refused):
    """A pooler that is not 0 at 0, so that no place owns what it gives."""

    def readout(self, x: torch.Tensor) -> torch.Tensor:
        return super().readout(x).exp()


REFUSED: dict[str, tuple[type[nn.Module], str]] = {
    "post-norm": (PostNorm, r"node LayerNormalization .* post-norm"),
    "branch norm": (BranchNorm, r"node LayerNormalization .* normalises an attention branch"),
    "talking heads": (TalkingHeads, r"node \w+ .*talking heads"),
    "gate": (Gated, r"node Tanh .* not linear in each token"),
    "merged tokens": (Merged, r"node \w+ .*merged"),
    "pooler": (Exponential, r"node Exp .* not linear even with its gates held.*--embedding"),
}
