"""The options that open an engine, gathered into one argument of the command."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .parameters import FILE

if TYPE_CHECKING:
    from simmap.engine.index.store import VectorStore
    from simmap.engine.options import Options


@dataclass(frozen=True)
class EngineChoice:
    """What the command line says of the engine; None leaves it to the YAML file or to the default.

    Attributes:
        config: YAML file of options; what is given beside it wins.
        model, device, fast_decode, scale, contours: as for ``engine.options.Options``.
    """

    config: str | None = None
    model: str | None = None
    device: str | None = None
    fast_decode: bool | None = None
    scale: float | None = None
    contours: bool | None = None

    def options(self, index: "VectorStore | None" = None, *, model: str | None = None) -> "Options":
        """The engine's options, by default with the model that made ``index``.

        Args:
            index: whose model is taken where neither option nor file names one.
            model: stands in for ``--model`` where a command takes several.

        Raises:
            ConfigError: the file, or a value in it or beside it, is wrong.
        """
        from simmap.engine.options import Options, load_options

        given: dict[str, Any] = {key: value for key, value in asdict(self).items() if value is not None}
        config = given.pop("config", None)
        if model is not None:
            given["model"] = model
        options = Options(**given) if config is None else load_options(config, **given)
        if options.model is None and index is not None and Path(index.model).is_file():
            return replace(options, model=index.model)
        return options


def engine_options(
    *, model: bool = True, draws: bool = False, decodes_fast: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--device`` and ``--config``, as the one parameter ``choice``.

    Args:
        model: also ``--model``.
        draws: also ``--scale`` and ``--no-contours``, of commands that draw maps.
        decodes_fast: also ``--fast-decode``.
    """
    options = [
        click.option("--device", metavar="DEVICE", help="auto (default), cpu, cuda or cuda:N."),
        click.option("--config", type=FILE, help="YAML file of engine options, see configs/engine.yaml."),
    ]
    if model:
        options.insert(
            0, click.option("--model", type=FILE, help="Artifact (.onnx); by default the one that ships.")
        )
    if draws:
        options += [
            click.option(
                "--scale", type=float, metavar="VALUE",
                help="Contribution per cell at full colour, to compare pictures; by default the largest.",
            ),
            click.option(
                "--no-contours", "contours", flag_value=False, type=bool, default=None,
                help="Draw no lines around the places that make half and 80 % of the score.",
            ),
        ]  # fmt: skip
    if decodes_fast:
        options.append(
            click.option(
                "--fast-decode", is_flag=True, default=None,
                help="Decode large JPEG files at reduced size: faster, embeddings change a little.",
            )
        )  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def gathered(**given: Any) -> Any:
            chosen = {name: given.pop(name) for name in EngineChoice.__dataclass_fields__ if name in given}
            return function(choice=EngineChoice(**chosen), **given)

        for option in reversed(options):
            gathered = option(gathered)
        return gathered

    return decorate
