"""``simmap site``: the page that compares photos in the browser, as a folder for any static host."""

from typing import TYPE_CHECKING

import click

from .shared.command import command as make_command
from .shared.parameters import FILE, FOLDER

if TYPE_CHECKING:
    from pathlib import Path


@make_command("site", "simmap site out --model model.onnx")
@click.argument("out", metavar="[OUT]", type=FOLDER, required=False, help="Folder to write.")
@click.option("--model", type=FILE, help="Artifact (.onnx); by default the one that ships.")
@click.option("--ort", type=FOLDER, help="Folder of onnxruntime-web's files; by default npm fetches them.")
@click.option(
    "--webgpu", is_flag=True,
    help="Run on the visitor's GPU where there is one: such browsers load 12 MB more. For large networks.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a site that exists.")
@click.option("--serve", is_flag=True, help="Show it on 127.0.0.1 until interrupted; OUT may be left out.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
    help="Port for --serve; 0 takes a free one.",
)  # fmt: skip
def command(
    out: str | None,
    model: str | None,
    ort: str | None,
    webgpu: bool,
    force: bool,
    serve: bool,
    port: int,
    as_json: bool,
) -> None:
    """A page that compares photos in the browser: nothing is uploaded, any static host serves it.

    With --serve, a site that exists is shown as it is, and without OUT one is made for the time being.
    """
    import tempfile
    from pathlib import Path

    from simmap.engine.engine import DEFAULT_MODEL
    from simmap.server.site import is_site
    from simmap.server.static import open_server

    if out is None and not serve:
        raise click.UsageError("give the folder OUT, or --serve")
    artifact = DEFAULT_MODEL if model is None else Path(model)
    with tempfile.TemporaryDirectory(prefix="simmap-site-") as temporary:
        site = Path(temporary) / "site" if out is None else Path(out)
        facts: dict[str, str] = {"site": str(site)}
        if serve and not force and is_site(site):
            if model is not None or ort is not None or webgpu:
                raise click.UsageError(f"{out} exists and is shown as it is; add --force to make it again")
        else:
            facts |= _write(site, artifact, ort, webgpu=webgpu, force=force)
        if not serve:
            _report(facts, as_json=as_json)
            return
        with open_server(site, port) as server:
            _report(facts | {"address": f"http://127.0.0.1:{server.server_port}/"}, as_json=as_json)
            server.serve_forever()


_NOTES = {
    "fp32": "the model is stored in float32; --precision fp16 in simmap export halves what a browser loads",
    "int8": "int8 is slower than fp16 in a browser, and its scores differ a little between runtimes",
}


def _write(site: "Path", model: "Path", ort: str | None, *, webgpu: bool, force: bool) -> dict[str, str]:
    """Write a site and give what there is to report of it."""
    from pathlib import Path

    from simmap.server import ort_web
    from simmap.server.site import check_site, read_contract, write_site

    check_site(site, force=force)
    read_contract(model)
    builds = (ort_web.CPU, ort_web.WEBGPU) if webgpu else (ort_web.CPU,)
    runtime = ort_web.from_npm(builds) if ort is None else ort_web.from_folder(Path(ort), builds)
    contract = write_site(site, model, runtime, force=force)
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    facts = {
        "model": str(model),
        "fingerprint": contract.fingerprint,
        "runtime": f"onnxruntime-web {ort_web.VERSION}",
        "size": f"{size / 1e6:.1f} MB",
    }
    if contract.precision in _NOTES:
        facts["note"] = _NOTES[contract.precision]
    return facts


def _report(facts: dict[str, str], *, as_json: bool) -> None:
    import sys

    from .shared.report import print_facts, print_json

    if as_json:
        print_json(facts)
    else:
        print_facts(facts.items())
    sys.stdout.flush()  # a server's address is wanted before the server ends
