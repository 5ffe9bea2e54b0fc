"""The commands of ``simmap``, each imported when it is asked for."""

from collections.abc import Mapping
from importlib import import_module

import click


class LazyGroup(click.Group):
    """A group that knows its commands by a table: name -> (module of ``simmap.commands``, line of help).

    The command is the attribute ``command`` of its module.
    """

    def __init__(self, name: str, table: Mapping[str, tuple[str, str]], help: str) -> None:
        """``help``: the group's own."""
        super().__init__(name, help=help, no_args_is_help=False, subcommand_metavar="COMMAND ...")
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._table:
            return None
        command = import_module(f"simmap.commands.{self._table[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])


def print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print ``simmap X.Y.Z`` and stop."""
    if wanted and not context.resilient_parsing:
        from importlib import metadata

        print(f"simmap {metadata.version('simmap')}")
        context.exit()


simmap = LazyGroup(
    "simmap",
    {
        "compare": ("compare", "The cosine similarity of two images, and a picture of what makes it."),
        "index": ("index", "Build, change and check an index of images to search in."),
        "search": ("search", "The images of an index that are most similar to an image or a region."),
        "class": ("class_", "What the images of a class have in common."),
        "contrast": ("contrast", "One query under several models: checkpoints, poolings, training runs."),
        "contribution": ("contribution", "How much of a score the largest features give."),
        "evaluate": ("evaluate", "How well a model retrieves; whether another may take its place."),
        "serve": ("serve", "Comparisons, searches and the page over HTTP."),
        "inspect": ("inspect", "What an artifact says of itself."),
        "export": ("export", "Turn a trained network into an artifact."),
        "pair": ("pair", "Turn an artifact into one graph of a pair, for other runtimes."),
        "site": ("site", "A page that compares photos in the browser, for any static host."),
    },
    "Which regions make two images similar: exact similarity maps of embedding networks.",
)
simmap.context_settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
simmap.params.append(
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=print_version,
        help="Print the version and stop.",
    )
)  # fmt: skip
