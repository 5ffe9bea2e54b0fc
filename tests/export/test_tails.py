"""Gates, norms and attention behind the feature map, against PyTorch by hooks, in float64, written out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from torch import nn
from torch.nn import functional as F  # noqa: N812

import networks
from checks import MEAN, STD, photos, run_artifact, run_export, values_of
from common import PHOTOS
from networks import Net
from simmap.engine import Engine
from simmap.engine.errors import ExportError
from simmap.engine.runtime.session import open_session
from simmap.export.exporter import Report, export
from simmap.export.recipe import load_recipe
from simmap.export.sources.network import TorchNetwork
from simmap.export.sources.tracing import to_onnx

SIZE, CHANNELS, GRID = 32, 16, 8
Tensor = torch.Tensor
# From a module in float64, the pooled feature (C,) and what each place adds to it (P, C), to what each
# place adds to the embedding (P, D).
Carry = Callable[[Any, Tensor, Tensor], Tensor]


def trunk() -> nn.Module:
    """A feature map (N, 16, 8, 8) without negative numbers."""
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3, stride=4, padding=1), nn.ReLU())


class Pooled(nn.Module):
    """A trunk, the average over places, and a tail of the feature (N, C)."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.trunk, self.tail = trunk(), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.trunk(x).mean((2, 3)))


class Gelu(nn.Module):
    """A residual block behind a norm."""

    def __init__(self, size: int = CHANNELS) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(size),
            nn.Linear(size, 24),
            nn.Linear(24, size),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Excite(nn.Module):
    """Squeeze-and-excitation of a pooled feature."""

    def __init__(self, size: int = CHANNELS) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, 4), nn.Linear(4, size)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x))))


class Unit(nn.Module):
    """An L2 norm between two linear layers."""

    def __init__(self, size: int = CHANNELS, features: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size, 12), nn.Linear(12, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.normalize(self.first(x)))


class Glu(nn.Module):
    """Half of the features is the gate of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, 20)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x))


class Branches(nn.Module):
    """Two branches, one gated, stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(CHANNELS, 6), nn.Linear(CHANNELS, 7)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.first(x), F.silu(self.second(x))), 1)


def gate(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """y / z, what a function of each number multiplies by."""
    return function(z) / z


def through_osnet(m: Any, x: Tensor, places: Tensor) -> Tensor:
    linear, norm, _ = m
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    z = norm(linear(x)[None])[0]
    return (places @ linear.weight.T) * scale * (z > 0)


def through_two_layers(function: Callable[[Any], Callable[[Tensor], Tensor]]) -> Carry:
    """A linear layer, a function, a linear layer."""

    def carry(m: Any, x: Tensor, places: Tensor) -> Tensor:
        return (places @ m[0].weight.T) * gate(function(m), m[0](x)) @ m[2].weight.T

    return carry


def through_layer_norm(norm: Any, x: Tensor, places: Tensor) -> Tensor:
    sigma = (x.var(unbiased=False) + norm.eps).sqrt()
    return norm.weight * (places - places.mean(1, keepdim=True)) / sigma


def through_norm_between(m: Any, x: Tensor, places: Tensor) -> Tensor:
    first, norm, _, second = m
    return through_layer_norm(norm, first(x), places @ first.weight.T) @ second.weight.T


def through_rms(m: Any, x: Tensor, places: Tensor) -> Tensor:
    return m.weight * places / ((x**2).mean() + m.eps).sqrt()


def through_residual(m: Any, x: Tensor, places: Tensor) -> Tensor:
    z = m.up(m.norm(x))
    inner = through_layer_norm(m.norm, x, places) @ m.up.weight.T * gate(F.gelu, z)
    return places + inner @ m.down.weight.T


def through_excite(m: Any, x: Tensor, places: Tensor) -> Tensor:
    return places * torch.sigmoid(m.up(F.relu(m.down(x))))


def through_unit(m: Any, x: Tensor, places: Tensor) -> Tensor:
    return places @ m.first.weight.T / m.first(x).norm() @ m.second.weight.T


def through_glu(m: Any, x: Tensor, places: Tensor) -> Tensor:
    return places @ m.linear.weight[:10].T * torch.sigmoid(m.linear(x)[10:])


def through_branches(m: Any, x: Tensor, places: Tensor) -> Tensor:
    second = places @ m.second.weight.T * torch.sigmoid(m.second(x))
    return torch.cat((places @ m.first.weight.T, second), 1)


def prelu(module: Any) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.where(z > 0, z, z * module.weight)


def two_layers(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(CHANNELS, 12), activation, nn.Linear(12, 6))


def norm_between() -> nn.Module:
    return nn.Sequential(nn.Linear(CHANNELS, 12), nn.LayerNorm(12), nn.Dropout(), nn.Linear(12, 6))


# Name: the tail, by hand, and whether what no place owns is the same for all images.
TAILS: dict[str, tuple[Callable[[], nn.Module], Carry, bool]] = {
    "Linear BN ReLU": (
        lambda: nn.Sequential(nn.Linear(CHANNELS, 12), nn.BatchNorm1d(12), nn.ReLU()), through_osnet, False,
    ),
    "ReLU Linear": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(CHANNELS, 6)), lambda m, x, p: p @ m[1].weight.T, True,
    ),
    "PReLU": (
        lambda: two_layers(nn.PReLU(12)), through_two_layers(lambda m: prelu(m[1])),
        False,
    ),
    "LeakyReLU": (lambda: two_layers(nn.LeakyReLU(0.1)), through_two_layers(lambda m: m[1]), False),
    "ReLU6": (lambda: two_layers(nn.ReLU6()), through_two_layers(lambda m: m[1]), False),
    "HardSwish": (lambda: two_layers(nn.Hardswish()), through_two_layers(lambda m: m[1]), False),
    "SiLU": (lambda: two_layers(nn.SiLU()), through_two_layers(lambda m: m[1]), False),
    "GELU": (lambda: two_layers(nn.GELU()), through_two_layers(lambda m: m[1]), False),
    "GELU by tanh": (lambda: two_layers(nn.GELU("tanh")), through_two_layers(lambda m: m[1]), False),
    "Tanh": (lambda: two_layers(nn.Tanh()), through_two_layers(lambda m: m[1]), False),
    "SE": (Excite, through_excite, True),
    "LayerNorm": (lambda: nn.LayerNorm(CHANNELS), through_layer_norm, True),
    "LayerNorm between": (norm_between, through_norm_between, False),
    "RMSNorm": (lambda: nn.RMSNorm(CHANNELS, eps=1e-5), through_rms, True),
    "L2 between": (Unit, through_unit, False),
    "residual": (Gelu, through_residual, False),
    "GLU": (Glu, through_glu, False),
    "branches": (Branches, through_branches, False),
}  # fmt: skip


def randomised(network: nn.Module) -> nn.Module:
    """With biases, norms and gates that are not at rest."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            nn.init.uniform_(parameter, 0.1 if "weight" in name else -0.4, 0.6)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    return network.eval()


def exported(network: nn.Module, folder: Path, size: int = SIZE, **flags: Any) -> Report:
    """Through a plain ONNX file."""
    model = to_onnx(TorchNetwork(network, "tiny"), (size, size), dynamic=False)
    onnx.save(model, str(folder / "source.onnx"))
    return run_export(folder / "source.onnx", folder / "out.onnx", **flags)


def tensors(images: np.ndarray) -> Tensor:
    """Photos as the network takes them, in float64."""
    return torch.from_numpy((images / 255 - np.array(MEAN)) / np.array(STD)).permute(0, 3, 1, 2)


def check_parts(network: Any, report: Report, module: Any, carry: Carry, *, layer: Any = None) -> None:
    """Embedding and parts at batch 1 and 3, and maps and residuals of the engine, against PyTorch."""
    session = open_session(report.path, device="cpu", threads=1)
    double = network.double()
    maps: list[Tensor] = []
    handle = (layer or network.trunk).register_forward_hook(lambda *given: maps.append(given[2]))
    for count in (1, 3):
        images = photos(session, count)
        found = run_artifact(session, images)
        with torch.no_grad():
            embedding = double(tensors(images))
            alpha = maps.pop()
            expected = []
            for one in alpha:
                places = one.flatten(1).T / one[0].numel()
                expected.append(carry(module, places.sum(0), places).reshape(*one.shape[1:], -1))
        parts = torch.stack(expected).numpy()
        reach = np.abs(parts).max()
        assert np.abs(found["embedding"] - embedding.numpy()).max() <= 1e-5 * embedding.abs().max()
        assert found["parts"].shape == parts.shape
        assert np.abs(found["parts"] - parts).max() <= 2e-6 * reach + 1e-9
    handle.remove()
    # The engine: a map and its residual make the score, whether the rest is one bias or the image's own.
    engine = Engine(report.path, device="cpu")
    pair = engine.compare(images[0], images[1])
    for values, residual in zip(pair.maps, pair.residuals, strict=True):
        assert abs(values.sum(dtype=np.float64) + residual - pair.score) <= 1e-5
    rest = embedding[0].numpy() - parts[0].sum(axis=(0, 1))
    own = pair.images[0].rest
    assert np.abs(rest - (0 if own is None else own)).max() <= 1e-5 * max(1, np.abs(rest).max())


@pytest.mark.parametrize("name", TAILS)
def test_parts_go_through_the_tail_with_its_gates_held(name: str, tmp_path: Path) -> None:
    build, carry, is_constant = TAILS[name]
    network = randomised(Pooled(build()))
    report = exported(network, tmp_path)
    contract = report.contract
    assert (contract.pooling, contract.head) == ("avg", "gated")
    assert contract.rest == ("constant" if is_constant else "image")
    assert {check.batch for check in report.checks} == {1, 3}
    assert {"embedding", "parts", "embedding = sum(parts)", "maps", "rest"} <= set(contract.parity)
    assert any("gates or norms" in note for note in report.notes)
    check_parts(network, report, network.tail.double(), carry)


class Tokens(nn.Module):
    """A map as tokens (N, L, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Attended(nn.Module):
    """A trunk, and attention over its places."""

    def __init__(self, pool: nn.Module, *, tokens: bool = False) -> None:
        super().__init__()
        self.trunk, self.pool = trunk(), pool
        self.tokens: nn.Module = Tokens() if tokens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.tokens(self.trunk(x)))


class OpenAi(nn.Module):
    """Attention pooling as OpenAI's CLIP writes it: tokens first, torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(GRID**2 + 1, CHANNELS) / 4)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))
        self.proj = nn.Linear(CHANNELS, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.positions[:, None]
        output, _ = F.multi_head_attention_forward(
            x[:1], x, x, CHANNELS, 4, None, torch.cat([self.q.bias, self.k.bias, self.v.bias]), None, None,
            False, 0.0, self.proj.weight, self.proj.bias, training=False, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=self.q.weight, k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
        )  # fmt: skip
        return output[0]


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """What each token adds (T, C) to the attention of one query (C,): head by head, by the definition."""
    rows = []
    for one_q, one_k, one_v in zip(q.chunk(heads), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        weights = torch.softmax(one_k @ one_q / one_q.numel() ** 0.5, 0)
        rows.append(weights[:, None] * one_v)
    return torch.cat(rows, 1)


def shared(each: Tensor) -> Tensor:
    """The first token is the mean of the others: each of these owns the same share of it."""
    return each[1:] + each[0] / (len(each) - 1)


def with_mean(places: Tensor, positions: Tensor) -> Tensor:
    """Tokens of a map given as parts of its average."""
    tokens = places * len(places)
    return torch.cat([tokens.mean(0, keepdim=True), tokens]) + positions


def through_pool(m: Any, x: Tensor, places: Tensor) -> Tensor:
    q, k, v = m.qkv(with_mean(places, m.pos_embed)).chunk(3, 1)
    return shared(attended(q[0], k, v, 4)) @ m.proj.weight.T


def through_openai(m: Any, x: Tensor, places: Tensor) -> Tensor:
    tokens = with_mean(places, m.positions)
    return shared(attended(m.q(tokens)[0], m.k(tokens), m.v(tokens), 4)) @ m.proj.weight.T


def through_rotated(m: Any, x: Tensor, places: Tensor) -> Tensor:
    """Positions turn the keys alone; the mean token, whose query counts, has none."""
    q, k, v = m.qkv(with_mean(places, torch.zeros(1))).chunk(3, 1)
    sin, cos = m.pos_embed.get_embed((GRID, GRID)).chunk(2, -1)
    each = k[1:].reshape(len(places), 4, -1)
    turned = torch.stack([-each[..., 1::2], each[..., ::2]], -1).reshape(each.shape)
    k = torch.cat([k[:1], (each * cos[:, None] + turned * sin[:, None]).flatten(1)])
    return shared(attended(q[0], k, v, 4)) @ m.proj.weight.T


def through_latent(m: Any, x: Tensor, places: Tensor) -> Tensor:
    k, v = m.kv(places * len(places)).chunk(2, 1)
    each = attended(m.q(m.latent[0, 0]), k, v, 4)
    x = m.proj(each.sum(0))
    parts = each @ m.proj.weight.T
    z = m.mlp.fc1(m.norm(x))
    inner = through_layer_norm(m.norm, x, parts) @ m.mlp.fc1.weight.T * gate(F.gelu, z)
    return parts + inner @ m.mlp.fc2.weight.T


ATTENTION: dict[str, tuple[Callable[[], Attended], Carry, str]] = {
    "AttentionPool2d": (
        lambda: Attended(AttentionPool2d(CHANNELS, GRID, out_features=12, num_heads=4, qkv_bias=True)),
        through_pool, "affine",
    ),
    "OpenAI": (lambda: Attended(OpenAi()), through_openai, "affine"),
    "RotAttentionPool2d": (
        lambda: Attended(RotAttentionPool2d(CHANNELS, 12, ref_feat_size=GRID, num_heads=4)),
        through_rotated, "affine",
    ),
    "latent": (
        lambda: Attended(
            AttentionPoolLatent(CHANNELS, num_heads=4, mlp_ratio=2, norm_layer=nn.LayerNorm), tokens=True
        ),
        through_latent, "gated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_pooling_is_a_sum_over_places(name: str, tmp_path: Path) -> None:
    build, carry, head = ATTENTION[name]
    network = randomised(build())
    report = exported(network, tmp_path)
    contract = report.contract
    assert (contract.pooling, contract.head) == ("attention", head)
    assert contract.outputs == ("conv", "embedding", "parts")
    assert (contract.channels, contract.grid_height, contract.grid_width) == (CHANNELS, GRID, GRID)
    assert contract.rest == ("image" if head == "gated" else "constant")
    check_parts(network, report, network.pool.double(), carry)


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda"])
@pytest.mark.parametrize("name", ["residual", "LayerNorm", "latent"])
def test_parts_are_those_of_the_weights_as_stored(name: str, precision: str, tmp_path: Path) -> None:
    network = randomised(ATTENTION[name][0]() if name in ATTENTION else Pooled(TAILS[name][0]()))
    full = exported(network, tmp_path)
    images = photos(open_session(full.path, device="cpu"), 3)
    expected = run_artifact(open_session(full.path, device="cpu"), images)
    half = run_export(tmp_path / "source.onnx", tmp_path / "half.onnx", precision=precision)
    found = run_artifact(open_session(half.path, device="cpu"), images)
    assert half.contract.fingerprint != full.contract.fingerprint
    assert half.contract.parity["parts"]["relative"] <= 1e-5
    for output in ("embedding", "parts"):
        assert np.abs(found[output] - expected[output]).max() <= 1e-2 * np.abs(expected[output]).max()


FACTORIES = """
import timm, torch
from torch import nn

def build(name, **options):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **options)
    for parameter in network.parameters():
        if parameter.ndim < 2:
            nn.init.uniform_(parameter, 0.2, 0.8)
    return network

def convnext():
    return build("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 24))

def mobilenet():
    return build("mobilenetv3_small_050")

def siglip():
    return build("vit_base_patch16_siglip_224", img_size=64, embed_dim=32, depth=2, num_heads=4)

def fc_norm():
    return build("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=4, global_pool="avg")
"""
FAMILIES = {
    "convnext": ("avg", "gated", "constant", (24, 2, 2), 24),
    "mobilenet": ("avg", "gated", "image", (288, 2, 2), 1024),
    "siglip": ("attention", "gated", "image", (32, 4, 4), 32),
    "fc_norm": ("avg", "gated", "constant", (32, 4, 4), 32),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_by_torch_and_by_its_graph_gives_one_artifact(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / f"factories_{name}.py"
    module.write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    flags = {"mean": list(MEAN), "std": list(STD), "size": 64}
    recipe = load_recipe(None, {"module": f"{module.stem}:{name}", **flags})
    first = export(recipe, tmp_path / "torch.onnx", trust=True)
    scope: dict[str, Any] = {}
    exec(FACTORIES, scope)
    network = scope[name]().eval()
    second = exported(network, tmp_path, 64)
    contract = first.contract
    assert contract.fingerprint == second.contract.fingerprint
    assert (contract.pooling, contract.head, contract.rest, contract.dimension) == (
        *FAMILIES[name][:3], FAMILIES[name][4],
    )  # fmt: skip
    assert (contract.channels, contract.grid_height, contract.grid_width) == FAMILIES[name][3]
    images = photos(open_session(first.path, device="cpu"), 3)
    found = run_artifact(open_session(first.path, device="cpu"), images)
    with torch.no_grad():
        expected = network.double()(tensors(images)).numpy()
    assert np.abs(found["embedding"] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "head"), [("convnext_atto", "gated"), ("mobilenetv3_small_050", "gated"), ("resnet10t", "none")]
)
def test_timm_gives_what_its_own_call_gives(name: str, head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    flags = {"mean": list(MEAN), "std": list(STD), "size": 64, "weights": str(tmp_path / "weights.pth")}
    report = export(load_recipe(None, {"timm": name, **flags}), tmp_path / "out.onnx")
    assert report.contract.head == head
    session = open_session(report.path, device="cpu")
    images = photos(session, 2)
    found = run_artifact(session, images)["embedding" if head == "gated" else "pooled"]
    network.reset_classifier(0)
    with torch.no_grad():
        expected = network.double()(tensors(images)).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("pooling", ["max", "gem", "avgmax", "catavgmax", "weights", "flatten", "sum"])
def test_gates_behind_any_pooling(pooling: str, tmp_path: Path) -> None:
    # A linear layer, a gate, a linear layer: by hand on what each place adds by the pooling's definition.
    net = Net()
    x = net.trunk()
    size, places = 8, net.draw(8, 1, 8, 8)
    if pooling == "flatten":
        y, size = net.op("Flatten", x), 512
    elif pooling == "weights":
        y = net.flat(net.op("Conv", x, net.store(places), net.store(net.draw(8)), group=8))
    elif pooling == "gem":
        y = net.op("Pow", net.op("Clip", x, net.store(1e-6)), net.store(3.0))
        y = net.flat(net.op("Pow", net.op("GlobalAveragePool", y), net.store(1 / 3)))
    elif pooling == "sum":
        y = net.reduce("ReduceSum", x, [2, 3], keep=0)
    else:
        avg, top = (net.flat(net.op(f"Global{kind}Pool", x)) for kind in ("Average", "Max"))
        y = top
        if pooling == "avgmax":
            y = net.op("Mul", net.store(0.5), net.op("Add", top, avg))
        if pooling == "catavgmax":
            y, size = net.op("Concat", avg, top, axis=1), 16
    y, first, _ = net.gemm(y, size, 6)
    y, second, _ = net.gemm(net.op("Relu", y, to="gated"), 6, 5)
    onnx.save(net.done(y), str(tmp_path / "source.onnx"))
    report = run_export(tmp_path / "source.onnx", tmp_path / "out.onnx", reference="zero")
    assert (report.contract.pooling, report.contract.head) == ({"sum": "avg"}.get(pooling, pooling), "gated")
    session = open_session(report.path, device="cpu")
    images = photos(session, 3)
    found = run_artifact(session, images)
    model = onnx.load(str(tmp_path / "source.onnx"))
    alphas, gates = (values_of(model, tensor, images) for tensor in (x, "gated"))
    for at, (alpha, held) in enumerate(zip(alphas, gates, strict=True)):
        average, winners = alpha / 64, alpha == alpha.max(axis=(1, 2), keepdims=True)
        top = np.where(winners, alpha, 0) / winners.sum(axis=(1, 2), keepdims=True)
        powers = np.maximum(alpha, 1e-6) ** 3
        beta = powers.mean(axis=(1, 2), keepdims=True) ** (1 / 3)
        hats = {
            "max": top, "gem": beta * powers / powers.sum(axis=(1, 2), keepdims=True), "sum": alpha,
            "avgmax": (average + top) / 2, "catavgmax": np.concatenate([average, top]),
            "weights": alpha * places[:, 0],
        }  # fmt: skip
        if pooling == "flatten":
            each = np.einsum("dchw,chw->hwd", first.reshape(6, 8, 8, 8), alpha)
        else:
            each = np.einsum("dc,chw->hwd", first, hats[pooling])
        expected = (each * (held > 0)) @ second.T
        assert np.abs(found["parts"][at] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda"])
@pytest.mark.parametrize("flatten", [False, True])
def test_rounded_weights_before_and_behind_a_gate_pass(flatten: bool, precision: str, tmp_path: Path) -> None:
    # given weights that float16 cannot hold, of matrices large enough to be stored so
    net = Net()
    x = net.trunk()
    y = net.op("Flatten", x) if flatten else net.flat(net.op("GlobalAveragePool", x))
    y, _, _ = net.gemm(y, 512 if flatten else 8, 256)
    y, _, _ = net.gemm(net.op("Relu", y), 256, 256)
    model = net.done(y)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value * np.float32(1.2345678), tensor.name))
    onnx.save(model, str(tmp_path / "source.onnx"))
    # when the artifact rounds them, then its parts are still those of the network that it stores
    parity = run_export(tmp_path / "source.onnx", tmp_path / "out.onnx", precision=precision).contract.parity
    assert 1e-5 < parity["embedding"]["relative"] < 1e-2
    assert parity["parts"]["relative"] < 1e-5


def test_gates_do_not_depend_on_the_size_of_the_input(tmp_path: Path) -> None:
    net = Net(free=True)
    x = net.trunk()
    y, weight, _ = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 6)
    y = net.op("Relu", y, to="gated")
    onnx.save(net.done(y), str(tmp_path / "source.onnx"))
    report = run_export(tmp_path / "source.onnx", tmp_path / "out.onnx", dynamic=True, size=16)
    session = open_session(report.path, device="cpu")
    model = onnx.load(str(tmp_path / "source.onnx"))
    for size, grid in (((16, 16), (8, 8)), ((40, 24), (20, 12))):
        images = photos(session, 2, size=size)
        found = run_artifact(session, images)
        alphas, gates = (values_of(model, tensor, images) for tensor in (x, "gated"))
        parts = np.einsum("dc,nchw->nhwd", weight, alphas) / np.prod(grid) * (gates > 0)[:, None, None]
        assert found["parts"].shape == (2, *grid, 6)
        assert np.abs(found["parts"] - parts).max() <= 1e-5 * np.abs(parts).max()
        assert np.abs(found["embedding"] - gates).max() <= 1e-5 * np.abs(gates).max()


def test_attention_takes_one_size_only(tmp_path: Path) -> None:
    onnx.save(networks.attended().model, str(tmp_path / "source.onnx"))
    with pytest.raises(ExportError, match=r"attention pooling .* takes one size only; leave --dynamic out"):
        run_export(tmp_path / "source.onnx", tmp_path / "out.onnx", dynamic=True)


def test_a_rest_of_more_than_half_is_said(tmp_path: Path) -> None:
    for offset, is_large in ((0.0, False), (30.0, True)):
        net = Net()
        y, _, _ = net.gemm(net.flat(net.op("GlobalAveragePool", net.trunk())), 8, 6)
        y = net.op("Add", net.op("Abs", y), net.store(np.full(6, offset)))
        onnx.save(net.done(y), str(tmp_path / "source.onnx"))
        report = run_export(tmp_path / "source.onnx", tmp_path / f"{is_large}.onnx")
        share = report.contract.parity["rest"]["share"]
        assert any("no place owns" in note for note in report.notes) == (share > 0.5)
        if is_large:
            assert share > 0.9
        # By hand: what is left of a photo's similarity with itself when all parts are taken off.
        images = list(Engine(report.path, device="cpu").embed(sorted(PHOTOS.glob("*.jpg"))))
        left = np.mean([image.residual_against(image) for image in images])
        assert share == pytest.approx(left, abs=1e-5)


LAYERS = {
    "linear": lambda size: nn.Linear(size, 7),
    "norm": nn.LayerNorm,
    "batch norm": nn.BatchNorm1d,
    "relu": lambda size: nn.ReLU(),
    "silu": lambda size: nn.SiLU(),
    "gelu": lambda size: nn.GELU(),
    "unit": lambda size: Unit(size, size),
    "excite": Excite,
    "residual": Gelu,
}


@settings(max_examples=8, deadline=None)
@given(kinds=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_any_order_of_layers_is_held(
    kinds: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Held, a tail is affine in the feature. So its parts are its Jacobian times the places, where the
    # Jacobian is taken with every factor that is read off the feature detached.
    torch.manual_seed(seed)
    size, layers = CHANNELS, []
    for kind in kinds:
        layers.append(LAYERS[kind](size))
        size = 7 if kind == "linear" else size
    network = randomised(Pooled(nn.Sequential(*layers)))
    folder = tmp_path_factory.mktemp("random")
    report = exported(network, folder)
    session = open_session(report.path, device="cpu")
    images = photos(session, 2, seed=seed)
    found = run_artifact(session, images)
    double = network.double()
    with torch.no_grad():
        maps = double.trunk(tensors(images))
    for at, alpha in enumerate(maps):
        places = alpha.flatten(1).T / GRID**2
        jacobian = torch.autograd.functional.jacobian(
            lambda x: held_forward(double.tail, x[None])[0], places.sum(0)
        )
        expected = (places @ jacobian.T).reshape(GRID, GRID, -1).numpy()
        assert np.abs(found["parts"][at] - expected).max() <= 2e-5 * np.abs(expected).max() + 1e-9
        with torch.no_grad():
            embedding = double.tail(places.sum(0)[None])[0].numpy()
        assert np.abs(found["embedding"][at] - embedding).max() <= 2e-5 * np.abs(embedding).max() + 1e-9


def held_forward(module: Any, x: Tensor) -> Tensor:
    """A tail whose gates, norms and factors do not change with its input."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = held_forward(layer, x)
        return x
    if isinstance(module, nn.ReLU | nn.SiLU | nn.GELU):
        return x * (module(x) / x).detach()
    if isinstance(module, nn.LayerNorm):
        sigma = (x.var(1, unbiased=False) + module.eps).sqrt().detach()
        return module.weight * (x - x.mean(1)) / sigma + module.bias
    if isinstance(module, Unit):
        x = module.first(x)
        return module.second(x / x.norm().detach())
    if isinstance(module, Excite):
        return x * torch.sigmoid(module.up(F.relu(module.down(x)))).detach()
    if isinstance(module, Gelu):
        return x + module.down(held_forward(nn.GELU(), module.up(held_forward(module.norm, x))))
    return module(x)
