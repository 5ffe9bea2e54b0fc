"""``simmap index check``: whether an index is whole."""

from .shared.command import command as make_command
from .shared.index_parameters import index_argument


@make_command("check", "simmap index check photos.index")
@index_argument
def command(index_folder: str, as_json: bool) -> None:
    """Verify all of an index: its database, and the checksum and length of each vector."""
    from simmap.engine.errors import printable
    from simmap.engine.index.check import check_index
    from simmap.engine.index.embedded import Index

    from .shared.progress import progress
    from .shared.report import print_json, print_line

    index = Index(index_folder)
    with progress("rows") as on_progress:
        checked = check_index(index, on_progress=on_progress)
    if as_json:
        print_json({"index": str(index.path), **checked.data()})
        return
    size = f"{checked.bytes / 1e6:.1f} MB of vectors"
    print_line(
        f"{printable(str(index.path))}: {checked.images} images are sound, {checked.rows} rows, {size}"
    )
