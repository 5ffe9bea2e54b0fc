"""``simmap index check``: whether an index is whole, and what an approximate one misses."""

from typing import Any

import click

from .shared.command import command as make_command
from .shared.engine_options import EngineChoice, engine_options
from .shared.index_parameters import index_argument


@make_command("check", "simmap index check photos.index")
@index_argument
@click.option(
    "--recall", is_flag=True, help="Measure which of the 10 best images a search finds, and keep it."
)
@engine_options()
def command(index_name: str, recall: bool, choice: EngineChoice, as_json: bool) -> None:
    """Verify all of an index: its database, and the checksum and length of each vector.

    With --recall, some of its photos and regions of them ask for their 10 best images. Their answers are
    compared with those of a scan of all vectors. An approximate index is searched only after this.
    """
    from simmap.engine.engine import Engine
    from simmap.engine.errors import printable
    from simmap.engine.index.check import check_index
    from simmap.engine.index.opening import open_index
    from simmap.engine.index.recall import measure_recall

    from .shared.progress import progress
    from .shared.report import print_json, print_line

    index = open_index(index_name)
    with progress("rows") as on_progress:
        checked = check_index(index, on_progress=on_progress)
    report: dict[str, Any] = {"index": index.name, **checked.data()}
    size = f"{checked.bytes / 1e6:.1f} MB of vectors"
    lines = [f"{printable(index.name)}: {checked.images} images are sound, {checked.rows} rows, {size}"]
    if recall:
        with Engine(options=choice.options(index)) as engine, progress("vectors") as on_progress:
            measured = measure_recall(engine, index, on_progress=on_progress)
        report["recall"] = {"approximate": index.approximate, **measured._asdict()}
        lines.append(
            f"recall@10 of {measured.queries} photos {measured.whole:.4f}, of a region of each "
            f"{measured.region:.4f}; {'exact' if index.approximate is None else index.approximate}"
        )
    if as_json:
        print_json(report)
        return
    for line in lines:
        print_line(line)
