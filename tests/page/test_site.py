"""`simmap site`: the folder that it writes, and what it serves."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from page_common import ORT_WEB

from common import ARTIFACTS, MODEL, ROOT, Simmap, failed, report
from simmap.server.ort_web import CPU, PACKAGE, VERSION, WEBGPU

pytestmark = pytest.mark.usefixtures("runtime")


def write(simmap: Simmap, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return simmap("site", "out", "--ort", ORT_WEB, *arguments)


def folder(tmp_path: Path) -> Path:
    return tmp_path / "cwd" / "out"


def test_a_site_holds_the_page_the_model_and_the_runtime(simmap: Simmap, tmp_path: Path) -> None:
    done = report(write(simmap, "--json"))
    out = folder(tmp_path)
    names = {
        path.name for path in (ROOT / "server" / "page").iterdir() if path.suffix in (".js", ".html", ".css")
    }
    assert names <= {path.name for path in out.iterdir()}
    config = json.loads((out / "config.json").read_text())
    model = out / config["model"]["path"].split("?")[0]
    assert model.read_bytes() == MODEL.read_bytes() and config["model"]["bytes"] == MODEL.stat().st_size
    contract = json.loads((out / config["contract"]).read_text())
    assert contract["fingerprint"] == done["fingerprint"] and contract["name"] == MODEL.stem
    for path in (config["runtime"]["script"], config["runtime"]["loader"], *config["examples"]):
        assert (out / path).is_file()
    assert {path.name for path in (out / "ort").iterdir()} == set(CPU.names)
    headers = (out / "_headers").read_text()
    assert "Cross-Origin-Embedder-Policy: require-corp" in headers and "'wasm-unsafe-eval'" in headers
    assert "CC-BY-4.0" in (out / "credits" / "README.md").read_text()
    assert "note" not in done
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_model_in_float32_is_written_with_a_note(simmap: Simmap, tmp_path: Path) -> None:
    done = report(write(simmap, "--model", ARTIFACTS / "gem.onnx", "--json"))
    assert "--precision fp16" in done["note"]
    assert json.loads((folder(tmp_path) / "model.json").read_text())["pooling"] == "gem"


def test_the_build_for_gpus_is_written_when_asked(simmap: Simmap, tmp_path: Path) -> None:
    report(write(simmap, "--webgpu", "--json"))
    config = json.loads((folder(tmp_path) / "config.json").read_text())
    assert {path.name for path in (folder(tmp_path) / "ort").iterdir()} == {*CPU.names, *WEBGPU.names}
    assert config["webgpu"]["wasm"]["bytes"] > config["runtime"]["wasm"]["bytes"]
    report(write(simmap, "--force", "--json"))
    assert "webgpu" not in json.loads((folder(tmp_path) / "config.json").read_text())


def test_an_infinite_exponent_is_json(tmp_path: Path) -> None:
    from dataclasses import replace

    from simmap.engine.engine import Engine
    from simmap.server.site import page_contract

    contract = replace(Engine(ARTIFACTS / "gem.onnx").contract, p=float("inf"))
    assert json.loads(json.dumps(page_contract("gem", contract), allow_nan=False))["p"] is None


def test_an_old_site_is_replaced_only_when_asked(simmap: Simmap, tmp_path: Path) -> None:
    report(write(simmap, "--json"))
    failed(write(simmap, "--model", ARTIFACTS / "avg.onnx"), "exists already; add --force")
    assert json.loads((folder(tmp_path) / "model.json").read_text())["name"] == MODEL.stem
    report(write(simmap, "--model", ARTIFACTS / "avg.onnx", "--force", "--json"))
    assert json.loads((folder(tmp_path) / "model.json").read_text())["name"] == "avg"


def test_a_folder_with_anything_else_in_it_stays_as_it_is(simmap: Simmap, tmp_path: Path) -> None:
    out = folder(tmp_path)
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    failed(write(simmap, "--force"), "is not a site of simmap")
    (out / "thesis.tex").unlink()
    report(write(simmap, "--json"))
    (out / "CNAME").write_text("example.org")
    failed(write(simmap, "--force"), "CNAME: is no part of the site")
    assert (out / "CNAME").exists() and (out / "index.html").exists()


def test_what_cannot_be_made_into_a_site_is_named(simmap: Simmap, tmp_path: Path) -> None:
    failed(simmap("site", "no/out", "--ort", ORT_WEB), "does not exist")
    failed(write(simmap, "--model", "gone.onnx"), "gone.onnx")
    failed(write(simmap, "--model", ORT_WEB / "package.json"), "package.json")
    other = tmp_path / "ort"
    other.mkdir()
    failed(simmap("site", "out", "--ort", other), "ort.wasm.min.mjs: cannot be read")
    for name in CPU.names:
        shutil.copy(ORT_WEB / "dist" / name, other)
    with (other / "ort.wasm.min.mjs").open("a") as stream:
        stream.write("//")
    failed(simmap("site", "out", "--ort", other), "ort.wasm.min.mjs: is not that of onnxruntime-web")
    failed(simmap("site"), "give the folder OUT, or --serve", code=2)
    assert not folder(tmp_path).exists()


def test_the_runtime_is_kept_in_the_cache_of_the_user(simmap: Simmap, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / f"onnxruntime-web-{VERSION}"
    kept.mkdir(parents=True)
    for name in CPU.names:
        shutil.copy(ORT_WEB / "dist" / name, kept)
    offline = {
        "npm_config_offline": "true",
        "npm_config_cache": str(tmp_path / "npm"),
        "SIMMAP_CACHE": str(tmp_path / "cache"),
    }
    report(simmap("site", "out", "--json", **offline))
    (kept / "ort.wasm.min.mjs").write_text("damaged")
    done = simmap("site", "other", **offline)
    failed(done, f"npm cannot fetch {PACKAGE}")
    assert "--ort" in done.stderr


@pytest.fixture
def served(tmp_path: Path) -> "subprocess.Popen[str]":
    """`simmap site --serve` without a folder, once it has printed its report."""
    return subprocess.Popen(
        [sys.executable, "-m", "simmap.cli", "site", "--serve", "--port", "0", "--ort", ORT_WEB, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip


def test_a_site_is_shown_on_this_machine_until_it_is_interrupted(
    served: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert served.stdout is not None
    lines = []
    while not lines or lines[-1] != "}\n":
        lines.append(served.stdout.readline())
        assert lines[-1], served.communicate()
    shown = json.loads("".join(lines))
    address = shown["address"]
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address + "ort/ort-wasm-simd-threaded.wasm?1") as response:
        assert response.headers["Content-Type"] == "application/wasm"
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    with urllib.request.urlopen(address + "ort/ort.wasm.min.mjs") as response:
        assert response.headers["Content-Type"] == "text/javascript"
    for path in ("ort/", "../../../../etc/passwd", "gone"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + path)
    busy = subprocess.run(
        [sys.executable, "-m", "simmap.cli", "site", "--serve", "--ort", ORT_WEB, "--port", address[17:-1]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    failed(busy, "give another with --port")
    served.send_signal(signal.SIGINT)
    _, errors = served.communicate(timeout=10)
    assert (served.returncode, errors) == (130, "simmap: interrupted\n")
    assert not Path(shown["site"]).exists()


def test_a_site_that_exists_is_shown_as_it_is(simmap: Simmap, tmp_path: Path) -> None:
    report(write(simmap, "--json"))
    done = write(simmap, "--serve")
    failed(done, "add --force to make it again", code=2)
