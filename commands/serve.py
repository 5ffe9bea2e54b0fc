"""``simmap serve``: the engine and an index behind HTTP."""

import atexit
import os

import click

from .shared.parameters import FILE, INDEX


@click.command("serve", epilog="\b\nexample: simmap serve --index photos.index --config server.yaml")
@click.option(
    "--model", type=FILE, help="Artifact (.onnx); by default that of the index, or the one that ships."
)
@click.option("--index", type=INDEX, help="Folder or URL of an index to search in.")
@click.option("--host", metavar="ADDRESS", help="Where to listen (default: 127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="PORT", help="Port (default: 8000; 0: a free one)."
)
@click.option("--config", type=FILE, help="YAML file of settings, see configs/server.yaml.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def command(
    model: str | None, index: str | None, host: str | None, port: int | None, config: str | None
) -> None:
    """Serve comparisons, searches and the page over HTTP, until SIGTERM or Ctrl-C.

    Logs are JSON lines on standard error; the first names the address.
    """
    from simmap.engine.errors import ConfigError

    # A request has one thread: those of NumPy's products would take the CPUs of others. Read on import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from simmap.server.process import serve
        from simmap.server.settings import load_settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("simmap"):
            raise
        raise ConfigError(f"{error}; serve needs more packages: pip install 'simmap[server]'") from error
    serve(load_settings(config, model=model, index=index, host=host, port=port))
    # Tracers send what they still hold: the process ends without Python's own end (``cli.run``).
    atexit._run_exitfuncs()
