"""Parameters that commands on an index or a labelled folder share."""

import click

from .parameters import FILE, FOLDER

index_argument = click.argument("index_folder", metavar="INDEX", type=FOLDER, help="Folder of the index.")
labels_option = click.option(
    "--labels", metavar="FILE.csv", type=FILE, help="Columns path,label; by default sub-folders are labels."
)
strict_option = click.option(
    "--strict", is_flag=True, help="Stop at an image that cannot be read, instead of skipping it."
)
