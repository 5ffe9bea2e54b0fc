"""Parameters that commands on an index or a labelled folder share."""

import click

from .parameters import FILE, INDEX

index_argument = click.argument("index_name", metavar="INDEX", type=INDEX, help="Folder or URL of the index.")
labels_option = click.option(
    "--labels", metavar="FILE.csv", type=FILE, help="Columns path,label; by default sub-folders are labels."
)
label_level_option = click.option(
    "--label-level",
    type=click.Choice(["first", "last", "path"]),
    help="Which of nested sub-folders is the label: the first (default), the last, or all of them.",
)
strict_option = click.option(
    "--strict", is_flag=True, help="Stop at an image that cannot be read, instead of skipping it."
)
