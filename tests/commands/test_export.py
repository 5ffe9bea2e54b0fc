"""``simmap export``: recipes, flags, and every way that it must refuse."""

import json
import subprocess
from pathlib import Path

import pytest

from common import PHOTOS, Simmap

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

FACTORY = '''
import torch
from torch import nn

class Net(nn.Module):
    """Conv, ReLU, average, linear: the smallest embedding network."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return nn.functional.normalize(self.head(self.body(x).mean((2, 3))))

def build():
    return Net()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which ``simmap`` runs, with a module of the user's own."""
    folder = tmp_path / "cwd"
    folder.mkdir(exist_ok=True)
    (folder / "mynets.py").write_text(FACTORY)
    return folder


def failed(done: "subprocess.CompletedProcess[str]", message: str) -> None:
    """Exit code 1; behind the progress lines, one line that says it."""
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("simmap: ") and message in last, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def left(folder: Path) -> set[str]:
    """What export left behind."""
    return {p.name for p in folder.iterdir()} - {"mynets.py", "__pycache__"}


def test_an_own_network_goes_all_the_way_to_a_picture(simmap: Simmap, folder: Path) -> None:
    done = simmap("export", "--module", "mynets:build", "--size", "64x96", "-o", "net.onnx")
    assert done.returncode == 0, done.stderr
    assert "output" in done.stdout and "relative" in done.stdout
    assert "ImageNet's are taken" in done.stdout  # mean and std were not given
    assert "- checking against the source" in done.stderr
    contract = json.loads(simmap("inspect", "net.onnx", "--json").stdout)
    assert contract["head"] == "affine" and contract["dimension"] == 5 and contract["has_bias"]
    assert (contract["input"]["height"], contract["input"]["width"]) == (64, 96)
    assert {"conv", "pooled", "embedding", "output"} <= set(contract["parity"])
    photos = sorted(PHOTOS.glob("*.jpg"))
    report = json.loads(simmap("compare", *photos, "--model", "net.onnx", "--json").stdout)
    for values, rest in zip(report["maps"], report["residuals"], strict=True):
        assert rest != 0
        assert sum(map(sum, values)) + rest == pytest.approx(report["score"], abs=1e-5)


def test_a_recipe_says_the_same_as_flags_and_flags_win(simmap: Simmap, folder: Path) -> None:
    recipe = folder / "sub" / "r.yaml"
    recipe.parent.mkdir()
    torch.save({"state_dict": {}}, folder / "ignored.pth")
    recipe.write_text("module: mynets:build\nsize: 64\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n")
    failed(
        simmap("export", recipe, "-o", "a.onnx"), "would run that module's code; if you trust it, add --trust"
    )
    by_recipe = json.loads(simmap("export", recipe, "--trust", "-o", "a.onnx", "--json").stdout)
    flags = ["--module", "mynets:build", "--size", "64", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    by_flags = json.loads(simmap("export", *flags, "-o", "b.onnx", "--json").stdout)
    assert by_recipe["contract"]["fingerprint"] == by_flags["contract"]["fingerprint"]
    assert all(check["passed"] for check in by_recipe["checks"])
    won = json.loads(simmap("export", recipe, "--trust", "--size", "96", "-o", "c.onnx", "--json").stdout)
    assert won["contract"]["input"]["height"] == 96
    assert won["contract"]["fingerprint"] != by_flags["contract"]["fingerprint"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tim: resnet18", "unknown key 'tim'; allowed are torchvision, timm"),
        ("size: 64", "give one source of torchvision, timm, module, onnx; given: none"),
        ("timm: a\nonnx: b", "given: timm and onnx"),
        ("timm: 3", "timm is 3 (int), must be text"),
        ("timm: a\nsize: big", "size is 'big', must be like 224 or 160x320"),
        ("timm: a\nmean: [1, 2]", "mean is [1, 2] (list), must be a list of 3"),
        ("timm: a\nstd: [1, 0, 1]", "std has a zero"),
        ("timm: a\npool: rmac", "pool is 'rmac', must be one of avg, max"),
        ("timm: a\nprecision: int4", "precision is 'int4'"),
        ("onnx: a\nweights: b", "leave weights out"),
        ("timm: !!python/object/apply:os.mkdir [pwned]", "not plain YAML"),
        ("timm: resnet18\nweights: package:nowhere/x.pth", "'nowhere' is not installed"),
        ("timm: resnet18\nweights: none.pth", "none.pth"),
        ("timm: resnot18", "resnot18"),
        ("torchvision: resnet19", "resnet19"),
        ("module: mynets:nothing", "nothing"),
        ("module: nomodule:build", "nomodule"),
        ("onnx: none.onnx", "none.onnx: no such model file"),
        (
            "timm: a\nreference: blnk",
            "reference must be blank, zero or a folder of photos: blnk: is no folder",
        ),
        ("timm: a\nreference: ''", "reference is empty, must be blank, zero or a folder of photos"),
    ],
)
def test_bad_recipes_are_named(simmap: Simmap, folder: Path, text: str, message: str) -> None:
    (folder / "r.yaml").write_text(text)
    failed(simmap("export", "r.yaml", "-o", "net.onnx"), message)
    assert left(folder) == {"r.yaml"}


def test_a_reference_reaches_the_contract_and_the_maps(simmap: Simmap, folder: Path) -> None:
    arguments = ["export", "--module", "mynets:build", "--size", "64", "--mean", "0.5,0.5,0.5"]
    arguments += ["--std", "0.5,0.5,0.5"]
    facts = {}
    for kind, reference in (("zero", "zero"), ("blank", "blank"), ("images", str(PHOTOS))):
        done = simmap(*arguments, "--reference", reference, "-o", f"{kind}.onnx")
        assert done.returncode == 0, done.stderr
        lines = simmap("inspect", f"{kind}.onnx").stdout.splitlines()
        assert [line.split()[1].rstrip(":") for line in lines if line.startswith("reference")] == [kind]
        facts[kind] = json.loads(simmap("inspect", f"{kind}.onnx", "--json").stdout)
        assert facts[kind]["reference"] == kind
        photos = sorted(PHOTOS.glob("*.jpg"))
        compared = simmap("compare", *photos, "--model", f"{kind}.onnx", "-o", f"{kind}.png", "--json")
        report = json.loads(compared.stdout)
        for values, rest in zip(report["maps"], report["residuals"], strict=True):
            assert sum(map(sum, values)) + rest == pytest.approx(report["score"], abs=1e-5)
    assert facts["images"]["source"]["reference"] == "photos, 2 photos"
    assert len({f["fingerprint"] for f in facts.values()}) == 3


def test_a_photo_of_the_reference_is_not_overwritten(simmap: Simmap, folder: Path) -> None:
    (folder / "photos").mkdir(exist_ok=True)
    photo = folder / "photos" / "a.jpg"
    photo.write_bytes(sorted(PHOTOS.glob("*.jpg"))[0].read_bytes())
    before = photo.read_bytes()
    flags = ["--module", "mynets:build", "--size", "64", "--reference", "photos", "--force"]
    done = simmap("export", *flags, "-o", "photos/a.jpg")
    assert done.returncode != 0 and "a.jpg" in done.stderr and done.stdout == ""
    assert photo.read_bytes() == before


def test_an_old_artifact_survives_whatever_goes_wrong(simmap: Simmap, folder: Path) -> None:
    old = folder / "net.onnx"
    old.write_bytes(b"old")
    arguments = ["export", "--module", "mynets:build", "--size", "64", "-o", "net.onnx"]
    failed(simmap(*arguments), "net.onnx: exists already")
    state = {k: v * float("nan") for k, v in torch.nn.Conv2d(3, 16, 3).state_dict().items()}
    torch.save({f"body.0.{k}": v for k, v in state.items()}, folder / "nan.pth")
    failed(simmap(*arguments, "--force", "--weights", "nan.pth"), "nan.pth")
    assert old.read_bytes() == b"old"
    assert left(folder) == {"net.onnx", "nan.pth"}
    assert simmap(*arguments, "--force").returncode == 0
    assert old.read_bytes() != b"old"


def test_pickled_code_is_never_run(simmap: Simmap, folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "pwned",))

    torch.save({"state_dict": Evil()}, folder / "evil.pth")
    failed(
        simmap("export", "--module", "mynets:build", "--weights", "evil.pth", "-o", "net.onnx"), "evil.pth"
    )
    assert left(folder) == {"evil.pth"}


def test_a_checkpoint_that_does_not_fit_names_its_keys(simmap: Simmap, folder: Path) -> None:
    torch.save({"body.0.weight": torch.zeros(1), "extra.one": torch.zeros(1)}, folder / "w.pth")
    done = simmap("export", "--module", "mynets:build", "--weights", "w.pth", "-o", "net.onnx")
    failed(done, "w.pth")
    assert "1 unexpected (extra.one)" in done.stderr and "5 missing (body.0.bias, " in done.stderr
    assert left(folder) == {"w.pth"}


def test_nan_in_an_onnx_file_does_not_pass_the_gate(simmap: Simmap, folder: Path) -> None:
    weight = onnx.numpy_helper.from_array(torch.full((4, 3, 3, 3), float("nan")).numpy(), "w")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
            onnx.helper.make_node("GlobalAveragePool", ["c"], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 1, 1])],
        [weight],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "nan.onnx"
    )
    failed(simmap("export", "--onnx", "nan.onnx", "-o", "out.onnx"), "nothing was written")
    assert left(folder) == {"nan.onnx"}
