"""What the maps of a picture show."""

import click

influence_option = click.option(
    "--influence",
    "view",
    flag_value="influence",
    default="contribution",
    help="Draw which places raise and which lower the score, in place of what each contributes.",
)
