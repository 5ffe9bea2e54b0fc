"""Checkpoints: what is read, what fits, and what is refused by name."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from simmap.engine.errors import ExportError
from simmap.export.sources.checkpoints import load_checkpoint
from simmap.export.sources.networks import build


@pytest.fixture
def state(factory: str) -> dict[str, Any]:
    """A state dict of the factory's network with values of its own."""
    network = build("module", f"{factory}:Net", weights=None).module
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
    network = build("module", f"{factory}:Net", weights=path).module
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_legacy_checkpoints(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.tar"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    network = build("module", f"{factory}:Net", weights=path).module
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


def test_a_classifier_of_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = torchvision.models.resnet18(weights=None, num_classes=7).state_dict()
    torch.save(
        {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"loss.centres": torch.ones(2)}}, path
    )
    source = build("torchvision", "resnet18", weights=path)
    loaded = source.module.state_dict()
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


def test_a_checkpoint_that_holds_itself_is_refused(factory: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    loop: dict[str, Any] = {"epoch": 1}
    loop["model"] = {"state_dict": loop}
    torch.save(loop, path)
    with pytest.raises(ExportError, match=r"holds no state dict .found a mapping that holds itself"):
        build("module", f"{factory}:Net", weights=path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_an_archive_that_unpacks_to_far_more_is_refused_unread(
    factory: str, tmp_path: Path, compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given zeros that compress a thousand times, or an entry whose declared size is a lie
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data/0", bytes(20_000_000 if compression else 1000))
    if compression == zipfile.ZIP_STORED:
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02") + 24
        content[at : at + 4] = (4_000_000_000).to_bytes(4, "little")
        path.write_bytes(content)
    # then nothing is unpacked
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *a: pytest.fail("was unpacked"))
    with pytest.raises(ExportError, match=r"would unpack to .* MB, more than 10 times its size"):
        build("module", f"{factory}:Net", weights=path)


def test_a_changed_byte_is_found_by_its_checksum(factory: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    build("module", f"{factory}:Net", weights=path)
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
    content = bytearray(path.read_bytes())
    at = content.index(state["conv.weight"].numpy().tobytes(), entry.header_offset)
    content[at + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"is damaged .the checksum of \S*data/0 differs.; copy it again"):
        build("module", f"{factory}:Net", weights=path)


def test_a_name_that_is_too_long_is_no_file(factory: str) -> None:
    with pytest.raises(ExportError, match="there is no such file, not a checkpoint"):
        build("module", f"{factory}:Net", weights=Path("x" * 300 + ".pth"))


def small() -> nn.Module:
    """Two layers: 4 tensors."""
    return nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 2)})


def loaded(content: object, folder: Path, heads: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The notes about a checkpoint that is loaded into ``small``."""
    path = folder / "weights.pth"
    torch.save(content, path)
    network = small()
    notes = load_checkpoint(network, path, "small", heads)
    assert all(float(value.detach().min()) == 7 for value in network.parameters())
    return notes


def sevens(prefix: str = "", *, without: str = "") -> dict[str, torch.Tensor]:
    return {
        prefix + key: torch.full_like(value, 7)
        for key, value in small().state_dict().items()
        if key != without
    }


def test_what_was_done_to_a_checkpoint_is_noted(tmp_path: Path) -> None:
    assert loaded(sevens(), tmp_path) == ()
    assert loaded(sevens("module."), tmp_path) == (
        "stripped the prefix 'module.' from the keys of the checkpoint",
    )
    assert loaded({"state_dict": sevens(), "model": sevens(), "ema": sevens()}, tmp_path) == (
        "took the entry 'state_dict' of the checkpoint (it has 'model', 'ema' too)",
    )
    assert loaded({"net": sevens(), "epoch": 1}, tmp_path) == ("took the entry 'net' of the checkpoint",)
    others = {"loss.w": torch.ones(1), "x.y": torch.ones(1)}
    assert loaded(sevens("net.") | others, tmp_path, ("head",)) == (
        "stripped the prefix 'net.' from the keys of the checkpoint",
        "ignored 2 tensors of the checkpoint outside it (loss.w, x.y)",
    )
    path = tmp_path / "weights.pth"
    assert load_checkpoint(small(), None, "small") == ("random weights: for tests only",)
    with pytest.raises(ExportError, match=r"does not fit small: 1 unexpected \(head\.w\)"):
        loaded(sevens() | {"head.w": torch.ones(1)}, tmp_path)
    assert loaded(sevens() | {"head.w": torch.ones(1)}, tmp_path, ("head",)) == (
        "ignored 1 tensors of the checkpoint that only the classifier needs",
    )
    assert path.exists()


def test_tensors_outside_a_network_that_is_no_librarys_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"1 unexpected \(loss\.w\)"):
        loaded(sevens("net.") | {"loss.w": torch.ones(1)}, tmp_path)


def test_a_name_that_two_modules_share_is_no_second_network(tmp_path: Path) -> None:
    # given the whole network once, and one layer of it again under another name
    state = sevens("net.") | {"teacher.a.bias": torch.zeros(3)}
    assert loaded(state, tmp_path, ("head",))[0].startswith("stripped the prefix 'net.'")
    # when it is there without a prefix too, then that is the one
    assert loaded(sevens() | {f"old.{k}": v * 0 for k, v in sevens().items()}, tmp_path, ("old",)) == (
        "ignored 4 tensors of the checkpoint that only the classifier needs",
    )
    # when half of it is there under two names, then what is missing is told
    halves = {k: v for p in ("x.", "y.") for k, v in sevens(p).items() if k.startswith(f"{p}a")}
    with pytest.raises(ExportError, match="2 missing"):
        loaded(halves, tmp_path)


def test_order_needs_every_tensor_and_its_kind(tmp_path: Path) -> None:
    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"l{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}

    assert "loaded in order" in loaded(renamed(sevens()), tmp_path)[0]
    counted = renamed(sevens()) | {"l9.num_batches_tracked": torch.tensor(3)}
    assert "loaded in order" in loaded(counted, tmp_path)[0]
    for state in (
        renamed(sevens(without="b.bias")),
        renamed(sevens()) | {"l9.bias": torch.ones(2)},
        dict(reversed(renamed(sevens()).items())),
        {key.replace("weight", "w"): value for key, value in renamed(sevens()).items()},
    ):
        with pytest.raises(ExportError, match=r"4 missing \(a\.weight, a\.bias, b\.weight, \.\.\.\)"):
            loaded(state, tmp_path)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_of_pythons_own_is_told_from_a_damaged_file(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"x": [1, 2]}, protocol=protocol))
    with pytest.raises(ExportError, match="holds pickled code and is not loaded"):
        load_checkpoint(small(), path, "small")
