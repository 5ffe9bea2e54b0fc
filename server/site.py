"""The page as a folder for any static host: everything runs in the browser, and nothing is uploaded."""

import json
import math
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from simmap.engine.contract import Contract
from simmap.engine.engine import DEFAULT_MODEL
from simmap.engine.errors import ArtifactError, OutputError, printable
from simmap.engine.runtime.session import open_session

from . import ort_web
from .headers import headers_file

PAGE = Path(__file__).resolve().parent / "page"
MODELS = DEFAULT_MODEL.parent
PAGE_SUFFIXES = (".html", ".css", ".js", ".svg")
OTHER_NAMES = {"config.json", "model.json", "model.onnx", "ort", "examples", "credits", "_headers"}


def check_site(out: Path, *, force: bool) -> None:
    """Refuse a folder that cannot be written, before any work is done for it.

    Raises:
        OutputError: its parent is missing, it exists and ``force`` is false, it is no site, or it holds
            something else as well.
    """
    name, parent = printable(str(out)), out.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{name}: the folder {printable(str(parent))} does not exist; create it first")
    if out.is_dir() and not any(out.iterdir()):
        return
    if not out.exists() and not out.is_symlink():
        return
    if not is_site(out):
        raise OutputError(f"{name}: exists and is not a site of simmap; give another folder")
    if not force:
        raise OutputError(f"{name}: exists already; add --force (force=True) to replace it")
    for path in out.iterdir():
        if path.name not in OTHER_NAMES and path.suffix not in PAGE_SUFFIXES:
            raise OutputError(
                f"{printable(str(path))}: is no part of the site, which is replaced as a whole; move it away"
            )


def is_site(folder: Path) -> bool:
    """Whether a folder holds what ``write_site`` writes."""
    return (folder / "index.html").is_file() and (folder / "config.json").is_file()


def write_site(out: Path, model: Path, runtime: dict[str, bytes], *, force: bool = False) -> Contract:
    """Write the page, an artifact, its contract, two example photos and onnxruntime-web into a folder.

    A folder that exists is replaced as a whole, once all is written.

    Args:
        out: the folder.
        model: the artifact.
        runtime: the files of onnxruntime-web by name, as ``ort_web`` gives them.
        force: replace a site that lies there.

    Returns:
        The artifact's contract.

    Raises:
        ArtifactError: the file is not an artifact, or no browser runs it.
        OutputError: as for ``check_site``, or the folder cannot be written.
    """
    check_site(out, force=force)
    contract = read_contract(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:80]}.", dir=out.absolute().parent) as temporary:
            site, old = Path(temporary) / "site", Path(temporary) / "old"
            site.mkdir()
            _write(site, model, contract, runtime)
            if not out.exists():
                site.rename(out)
                return contract
            out.rename(old)
            try:
                site.rename(out)
            except OSError:
                old.rename(out)
                raise
    except OSError as error:
        raise OutputError(f"{printable(str(out))}: cannot be written: {error.strerror or error}") from error
    return contract


def read_contract(model: Path) -> Contract:
    """The contract of an artifact that a browser can run.

    Raises:
        ArtifactError: the file is not an artifact, or it computes in float16.
    """
    contract = open_session(model, device="cpu", threads=1).contract
    if contract.precision == "fp16-cuda":
        raise ArtifactError(
            f"{printable(str(model))}: computes in float16, which is for CUDA; "
            "export it with --precision fp16 for browsers"
        )
    return contract


def _write(site: Path, model: Path, contract: Contract, runtime: dict[str, bytes]) -> None:
    for path in PAGE.iterdir():
        if path.suffix in PAGE_SUFFIXES:
            shutil.copyfile(path, site / path.name)
    shutil.copyfile(model, site / "model.onnx")
    (site / "model.json").write_text(json.dumps(page_contract(model.stem, contract)))
    (site / "ort").mkdir()
    for name, data in runtime.items():
        (site / "ort" / name).write_bytes(data)
    (site / "examples").mkdir()
    photos = sorted((MODELS / "photos").glob("*.jpg"))
    for photo in photos:
        shutil.copyfile(photo, site / "examples" / photo.name)
    (site / "credits").mkdir()
    for path in (MODELS / "README.md", *MODELS.glob("LICENSE.*")):
        shutil.copyfile(path, site / "credits" / path.name)
    (site / "config.json").write_text(json.dumps(_config(model, contract, runtime, photos), indent=2) + "\n")
    (site / "_headers").write_text(headers_file())


def page_contract(name: str, contract: Contract) -> dict[str, object]:
    """``model.json``: what the page reads of the contract; JSON has no infinity, so that p is None."""
    infinite = contract.p is not None and math.isinf(contract.p)
    return {
        "name": name,
        "input": asdict(contract.input),
        "pooling": contract.pooling,
        "p": None if infinite else contract.p,
        "eps": contract.eps,
        "head": contract.head,
        "bias": contract.bias,
        "rest": contract.rest,
        "dimension": contract.dimension,
        "grid_height": contract.grid_height,
        "grid_width": contract.grid_width,
        "fingerprint": contract.fingerprint,
    }


def _config(
    model: Path, contract: Contract, runtime: dict[str, bytes], photos: list[Path]
) -> dict[str, object]:
    """``config.json``, as ``page/types.js`` describes it."""
    return {
        "backend": "local",
        # A browser keeps both for as long as their addresses stay.
        "model": {
            "path": f"model.onnx?{contract.fingerprint[-16:]}",
            "bytes": model.stat().st_size,
        },
        "contract": "model.json",
        "runtime": _build(ort_web.CPU, runtime),
        **({"webgpu": _build(ort_web.WEBGPU, runtime)} if ort_web.WEBGPU.wasm in runtime else {}),
        "examples": [f"examples/{photo.name}" for photo in photos],
    }


def _build(build: ort_web.Build, runtime: dict[str, bytes]) -> dict[str, object]:
    return {
        "script": f"ort/{build.script}",
        "loader": f"ort/{build.loader}",
        "wasm": {"path": f"ort/{build.wasm}?{ort_web.VERSION}", "bytes": len(runtime[build.wasm])},
    }
