"""Embeddings that are read from a class token: artifacts against PyTorch by hooks in float64."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from test_tails import TAILS
from test_tails import randomised as with_gates
from tiny_transformers import FAMILIES, direct_effect, randomised, size_of, token_orders

from checks import MEAN, STD, close, photos, run_artifact, run_export
from common import MODEL, PHOTOS, ROOT, Simmap
from simmap.engine import Engine, decompose
from simmap.engine.analysis.faithfulness import faithfulness
from simmap.engine.analysis.orders import order_maps
from simmap.engine.contract import GRAPH_KEY, OPTIONAL_KEY
from simmap.engine.errors import SimmapError
from simmap.engine.images.preprocess import preprocess
from simmap.engine.runtime.session import Session, open_session
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe


def by_torch(family: str, output: Path, **flags: Any) -> Session:
    """Export a family's network from PyTorch and open the artifact."""
    height, width = size_of(family)
    settings = {
        "module": f"tiny_transformers:{family}",
        "size": f"{height}x{width}",
        "mean": list(MEAN),
        "std": list(STD),
    }
    report = export(load_recipe(None, {**settings, **flags}), output, trust=True)
    return open_session(report.path, device="cpu")


def plain_onnx(
    family: str, path: Path, *, opset: int = 17, free_batch: bool = True, network: Any = None
) -> Path:
    """The network as a third party would export it: TorchScript, nothing simplified."""
    network = network or FAMILIES[family]()
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    buffer = io.BytesIO()
    example = torch.zeros(1, 3, *size_of(family))
    torch.onnx.export(
        network,
        (example,),
        buffer,
        opset_version=opset,
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}} if free_batch else None,
    )
    onnx.save(onnx.load_from_string(buffer.getvalue()), str(path))
    return path


def expected(family: str, images: Any) -> tuple[Any, Any]:
    """Embeddings and parts of uint8 photos, the embedding before a final L2 norm."""
    return direct_effect(FAMILIES[family](), normalised(images))


def normalised(images: Any) -> Any:
    """uint8 photos as the networks take them."""
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_what_the_patch_tokens_add_in_pytorch(family: str, tmp_path: Path) -> None:
    # given the same network exported from PyTorch and as a plain ONNX file
    ours = by_torch(family, tmp_path / "torch.onnx")
    report = run_export(plain_onnx(family, tmp_path / "source.onnx"), tmp_path / "onnx.onnx")
    theirs = open_session(report.path, device="cpu")
    for session in (ours, theirs):
        contract = session.contract
        assert (contract.pooling, contract.head, contract.rest) == ("token", "gated", "image")
        assert set(contract.outputs) == {"embedding", "parts"}
        assert contract.parity["blocks"]["relative"] < 1e-5
        for count in (1, 3):
            images = photos(session, count)
            embedding, parts = expected(family, images)
            grid = (contract.grid_height, contract.grid_width)
            # when the artifact runs
            found = run_artifact(session, images)
            # then its parts are those of the definition
            close(found["parts"], parts.reshape(count, *grid, -1), 2e-5)
            size = np.linalg.norm(found["embedding"], axis=1, keepdims=True)
            if family == "openclip":  # divides by its norm at the end, which no cosine sees
                np.testing.assert_allclose(found["embedding"] / size, embedding, atol=1e-5)
            else:
                close(found["embedding"], embedding, 1e-5)
            # and so is what other methods order the tokens by
            whole = open_session(session.path, device="cpu", optional=True)
            tokens, attention = token_orders(FAMILIES[family](), normalised(images))
            more = run_artifact(whole, images)
            close(more["tokens"], tokens.reshape(count, *grid, -1), 2e-5)
            close(more["last_attention"], attention.reshape(count, *grid), 2e-5)
            np.testing.assert_array_equal(more["parts"], found["parts"])
            # and they carry a share of it that would show a mistake
            assert np.linalg.norm(parts.sum(axis=1)) > 0.1 * np.linalg.norm(found["embedding"])


@pytest.mark.parametrize("options", [{"opset": 13}, {"free_batch": False}], ids=str)
def test_older_and_fixed_files_give_the_same_parts(options: dict[str, Any], tmp_path: Path) -> None:
    # opset 13 writes a norm out; a fixed batch size writes the class token down once
    report = run_export(plain_onnx("vit", tmp_path / "source.onnx", **options), tmp_path / "out.onnx")
    session = open_session(report.path, device="cpu")
    images = photos(session, 3)
    embedding, parts = expected("vit", images)
    found = run_artifact(session, images)
    close(found["embedding"], embedding, 1e-5)
    close(found["parts"], parts.reshape(found["parts"].shape), 2e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of the family ``vit``, one cell for each of its 3 x 4 patches."""
    folder = tmp_path_factory.mktemp("vit")
    return run_export(plain_onnx("vit", folder / "source.onnx"), folder / "whole.onnx").path


@pytest.mark.parametrize("cells", [(3, 2), (1, 4), (1, 1)])
@pytest.mark.parametrize("family", ["vit", "deit"])
def test_a_grid_sums_the_patches_of_each_cell(family: str, cells: tuple[int, int], tmp_path: Path) -> None:
    cells = cells if family == "vit" else (cells[0] // 3 * 2 or 1, cells[1])
    grid = f"{cells[0]}x{cells[1]}"
    source = plain_onnx(family, tmp_path / "source.onnx")
    session = open_session(run_export(source, tmp_path / "coarse.onnx", grid=grid).path, device="cpu")
    images = photos(session, 3)
    _, parts = expected(family, images)
    height, width = (3, 4) if family == "vit" else (4, 4)
    split = parts.reshape(3, cells[0], height // cells[0], cells[1], width // cells[1], -1)
    close(run_artifact(session, images)["parts"], split.sum(axis=(2, 4)), 2e-5)
    # and a cell's token is the mean of those of its patches, its attention their sum
    found = run_artifact(open_session(session.path, device="cpu", optional=True), images)
    for name, each, total in zip(
        ("tokens", "last_attention"),
        token_orders(FAMILIES[family](), normalised(images)),
        (np.mean, np.sum),
        strict=True,
    ):
        split = each.reshape(3, cells[0], height // cells[0], cells[1], width // cells[1], -1)
        close(found[name], total(split, axis=(2, 4)).reshape(found[name].shape), 2e-5)
    assert (session.contract.grid_height, session.contract.grid_width) == cells


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda"])
def test_half_precision_keeps_the_parts(precision: str, whole: Path, tmp_path: Path) -> None:
    report = run_export(whole.parent / "source.onnx", tmp_path / "half.onnx", precision=precision)
    assert report.size < 0.75 * whole.stat().st_size
    session = open_session(report.path, device="cpu")
    images = photos(session, 3)
    embedding, parts = expected("vit", images)
    found = run_artifact(session, images)
    close(found["embedding"], embedding, 1e-2)
    close(found["parts"], parts.reshape(found["parts"].shape), 1e-2)


def test_scores_maps_and_regions_of_photos(whole: Path) -> None:
    # given two photos and their embeddings and parts by PyTorch
    engine = Engine(whole, device="cpu")
    names = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"]
    pair = engine.compare(*names)
    pixels = np.stack([preprocess(photo.pixels, engine.contract.input)[0] for photo in pair.photos])
    embeddings, parts = expected("vit", pixels)
    units = [e / np.linalg.norm(e) for e in embeddings]
    rests = embeddings - parts.sum(axis=1)
    assert pair.score == pytest.approx(units[0] @ units[1], abs=1e-5)
    for i, j in ((0, 1), (1, 0)):
        size = np.linalg.norm(embeddings[i])
        values = parts[i] @ units[j] / size
        # then the map and the residual are the score, each with its own value
        np.testing.assert_allclose(pair.maps[i].reshape(-1), values, atol=1e-5)
        assert pair.residuals[i] == pytest.approx(rests[i] @ units[j] / size, abs=1e-5)
        assert pair.maps[i].sum() + pair.residuals[i] == pytest.approx(pair.score, abs=1e-5)
        # and one inner product with a region's query is the map summed over the region
        weights = np.linspace(0, 1, 12).reshape(3, 4)
        image = pair.images[i]
        query = decompose.region_query(image.parts, image.embedding, weights)
        assert query @ units[j] == pytest.approx((weights.reshape(-1) * values).sum(), abs=1e-5)
    # and the share of the rest is what the export stored
    shares = [rest @ e / (e @ e) for rest, e in zip(rests, embeddings, strict=True)]
    assert engine.contract.parity["rest"]["share"] == pytest.approx(np.mean(shares), abs=1e-4)


def test_a_large_rest_is_said(tmp_path: Path) -> None:
    # a large class token and output biases, and small patches: the places own next to nothing
    network = FAMILIES["vit"]()
    with torch.no_grad():
        network.blocks[0].attn.proj.bias *= 50
    source = plain_onnx("vit", tmp_path / "source.onnx", network=network)
    report = run_export(source, tmp_path / "out.onnx")
    share = report.contract.parity["rest"]["share"]
    assert share > 0.5
    assert any(f"no place owns {share:.0%} of a photo's similarity" in note for note in report.notes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dynamic": True}, "position embeddings fix the number of its patches; leave --dynamic out"),
        ({"grid": "2x2"}, r"grid is 2x2; source.onnx has 3 x 4 patches"),
        ({"grid": "0x4"}, r"grid is \(0, 4\), must be whole numbers from 1 to 8192"),
        (
            {"grid": "1x1", "pool": "avg"},
            "grid: is for a class token's patches; leave pool and conv_layer out",
        ),
        ({"grid": "four"}, "grid is 'four', must be like 7 or 7x7"),
        ({"precision": "int8"}, "quantises convolutions"),
    ],
    ids=str,
)
def test_refused(flags: dict[str, Any], message: str, whole: Path, tmp_path: Path) -> None:
    if flags.get("precision") == "int8":
        for i in range(30):
            shutil.copy(PHOTOS / "buddha_a.jpg", tmp_path / f"{i}.jpg")
        flags = {**flags, "calibrate": str(tmp_path)}
    with pytest.raises(SimmapError, match=message):
        run_export(whole.parent / "source.onnx", tmp_path / "out.onnx", **flags)
    assert not (tmp_path / "out.onnx").exists()


def test_a_grid_is_for_class_tokens_alone(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), str(tmp_path / "cnn.onnx"), dynamo=False)
    with pytest.raises(SimmapError, match=r"grid is for embeddings that are read from a class token"):
        run_export(tmp_path / "cnn.onnx", tmp_path / "out.onnx", grid="2x2")


def test_the_command_line_takes_a_grid_and_says_what_no_place_owns(
    whole: Path, simmap: Simmap, tmp_path: Path
) -> None:
    output = tmp_path / "coarse.onnx"
    done = simmap("export", "--onnx", whole.parent / "source.onnx", "--grid", "1x2", "-o", output)
    assert done.returncode == 0, done.stderr
    message = simmap("inspect", output).stdout
    share = open_session(output, device="cpu").contract.parity["rest"]["share"]
    assert f"{share:.0%} of a photo's similarity with itself" in message
    assert "48 x 1 x 2" in message
    photos = sorted(PHOTOS.glob("*.jpg"))
    pair = json.loads(simmap("compare", "--model", output, *photos, "--json").stdout)
    for values, residual in zip(pair["maps"], pair["residuals"], strict=True):
        assert np.sum(values) + residual == pytest.approx(pair["score"], abs=1e-5)


def test_the_rest_of_labelled_photos_can_be_measured(whole: Path, tmp_path: Path) -> None:
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for photo in PHOTOS.glob("*.jpg"):
            shutil.copy(photo, tmp_path / label)
    script = ROOT / "examples" / "measure_rest.py"
    command = [sys.executable, str(script), str(whole), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    same, other = done.stdout.splitlines()
    pair = Engine(whole, device="cpu").compare(*sorted(PHOTOS.glob("*.jpg")))
    shares = [values.sum() / pair.score for values in pair.maps]
    assert same.startswith(f"same class: 4 pairs, share of the score {np.median(shares):.2f} ")
    assert other.startswith("other class: 8 pairs")


def test_embedding_pooled_takes_the_token_before_the_projection(tmp_path: Path) -> None:
    source = plain_onnx("clip", tmp_path / "source.onnx")
    kept = run_export(source, tmp_path / "kept.onnx").contract
    report = run_export(source, tmp_path / "out.onnx", embedding="pooled")
    assert (kept.dimension, report.contract.dimension) == (32, 48)
    session = open_session(report.path, device="cpu")
    images = photos(session, 3)
    embedding, parts = expected("clip", images)
    found = run_artifact(session, images)
    head = FAMILIES["clip"]().head
    matrix, bias = (np.asarray(head.get_parameter(name), np.float64) for name in ("weight", "bias"))
    close(found["embedding"] @ matrix.T + bias, embedding, 1e-5)
    close(found["parts"].reshape(3, 16, -1) @ matrix.T, parts, 2e-5)


def test_the_last_block_is_computed_for_the_tokens_that_are_read(whole: Path) -> None:
    """The tensors of an ordinary run: 13 tokens, 48 features, MLPs of 192."""

    def shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
        del model.graph.output[:]
        for node in model.graph.node:
            model.graph.output.extend([onnx.ValueInfoProto(name=node.output[0])])
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        image = np.zeros((3, 48, 64, 3), np.uint8)
        kinds = [node.op_type for node in model.graph.node]
        return [
            v.shape for v, k in zip(session.run(None, {"image": image}), kinds, strict=True) if k == "MatMul"
        ]

    source = shapes(onnx.load(str(whole)))
    # of the two MLPs only the first is computed for all tokens
    assert source.count((3, 13, 192)) == 1
    assert source.count((3, 1, 192)) == 1
    # and of the last attention only one row
    assert source.count((3, 3, 13, 13)) == 1
    assert source.count((3, 3, 1, 13)) == 1


# "ReLU Linear" by hand expects a feature without negative numbers; TorchScript does not write RMSNorm.
@pytest.mark.parametrize("name", [name for name in TAILS if name not in ("ReLU Linear", "RMSNorm")])
def test_gates_behind_a_class_token_are_held(name: str, tmp_path: Path) -> None:
    # given a transformer of 16 features whose class token passes a tail
    build, carry, _ = TAILS[name]
    trunk = randomised(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=48, depth=2, embed_dim=16, num_heads=2, num_classes=0
        )
    )
    tail = with_gates(build()).requires_grad_(False)
    network = torch.nn.Sequential(trunk, tail).eval()
    source = tmp_path / "source.onnx"
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    torch.onnx.export(
        network, (torch.zeros(1, 3, 48, 48),), str(source), opset_version=17, dynamo=False,
        input_names=["x"], dynamic_axes={"x": {0: "batch"}},
    )  # fmt: skip
    # when it is exported
    report = run_export(source, tmp_path / "out.onnx")
    contract = report.contract
    assert (contract.pooling, contract.head, contract.rest) == ("token", "gated", "image")
    assert {"blocks", "state", "head", "gated parts", "embedding = sum(parts)"} <= set(contract.parity)
    assert any("gates or norms" in note for note in report.notes)
    # then its parts are those of the definition with the gates of the token's own feature
    session = open_session(report.path, device="cpu", optional=True)
    images = photos(session, 3)
    features, parts = direct_effect(trunk, normalised(images))
    tail = tail.double()
    expected = [
        carry(tail, torch.from_numpy(x), torch.from_numpy(p)).numpy()
        for x, p in zip(features, parts, strict=True)
    ]
    found = run_artifact(session, images)
    close(found["embedding"], tail(torch.from_numpy(features)).numpy(), 1e-5)
    close(found["parts"].reshape(3, 9, -1), np.stack(expected), 5e-5)
    # and each patch's own token passes the same tail
    tokens, _ = token_orders(trunk, normalised(images))
    each = torch.stack([tail(torch.from_numpy(rows)) for rows in tokens]).numpy()
    close(found["tokens"].reshape(each.shape), each, 1e-5)


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda"])
def test_gates_behind_a_class_token_pass_in_half_precision(precision: str, tmp_path: Path) -> None:
    network = torch.nn.Sequential(FAMILIES["vit"](), torch.nn.Linear(48, 300), torch.nn.ReLU())
    source = plain_onnx("vit", tmp_path / "source.onnx", network=network.eval())
    report = run_export(source, tmp_path / "out.onnx", precision=precision)
    pair = Engine(report.path, device="cpu").compare(*sorted(PHOTOS.glob("*.jpg")))
    for values, residual in zip(pair.maps, pair.residuals, strict=True):
        assert values.sum(dtype=np.float64) + residual == pytest.approx(pair.score, abs=1e-5)


def test_faithfulness_measures_the_orders_of_tokens(whole: Path) -> None:
    engine = Engine(whole, device="cpu")
    names = sorted(PHOTOS.glob("*.jpg"))
    image, other = engine.activations(names)
    maps = order_maps(image, other, engine.contract)
    pixels = np.stack([preprocess(engine.load(n).pixels, engine.contract.input)[0] for n in names])
    tokens, attention = token_orders(FAMILIES["vit"](), normalised(pixels))
    unit = other.embedding / np.linalg.norm(other.embedding)
    cosines = [float(token @ unit) / float(np.linalg.norm(token)) for token in tokens[0]]
    np.testing.assert_allclose(maps["token_cosine"].reshape(-1), cosines, atol=1e-5)
    np.testing.assert_allclose(maps["last_attention"].reshape(-1), attention[0], atol=1e-5)
    measured = faithfulness(engine, [(str(names[0]), str(names[1]))], steps=2)
    assert {"token_cosine", "last_attention"} <= measured.curves["blur"]["deletion"].keys()
    assert measured.skipped == {"gradient_x_activation": "it is the influence here"}
    assert not any(one.tokens is not None for one in Engine(MODEL, device="cpu").activations(names[:1]))


def test_an_artifact_without_the_tokens_is_measured_without_them(whole: Path, tmp_path: Path) -> None:
    # given an artifact as an older simmap wrote it
    model = onnx.load(str(whole))
    kept = {e.key: e.value for e in model.metadata_props if e.key not in (OPTIONAL_KEY, GRAPH_KEY)}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(tmp_path / "old.onnx"))
    names = [str(path) for path in sorted(PHOTOS.glob("*.jpg"))]
    measured = faithfulness(Engine(tmp_path / "old.onnx", device="cpu"), [(names[0], names[1])], steps=1)
    assert "token_cosine" not in measured.curves["blur"]["deletion"]
    assert measured.skipped["token_cosine"] == "an older simmap exported the model; export it again"
    # and a damaged piece of graph is refused in one line
    for damaged in ("no base64!", "AAAA", kept["simmap.maps"]):
        onnx.helper.set_model_props(model, {**kept, OPTIONAL_KEY: damaged})
        onnx.save(model, str(tmp_path / "bad.onnx"))
        engine = Engine(tmp_path / "bad.onnx", device="cpu")
        with pytest.raises(SimmapError, match=r"bad.onnx: its simmap.optional is no piece of its graph"):
            list(engine.activations(names))
        assert len(list(engine.vectors(names))) == 2  # an ordinary run does not look at it
