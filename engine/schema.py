"""Plain data from YAML or JSON held against dataclasses: errors name the field."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from .errors import ConfigError, printable


def from_mapping(target: Any, value: object, name: str) -> Any:
    """Build the dataclass (or check the annotated type) ``target`` from plain YAML or JSON data.

    Lists become tuples where the annotation is a tuple, whole numbers become floats where it is
    float; nothing else is converted.

    Raises:
        TypeError: a value has the wrong type; the message names the field.
        ValueError: an unknown or missing key, or a value outside a ``Literal``; likewise.
    """
    if is_dataclass(target):
        if not isinstance(value, dict):
            raise TypeError(f"{name} is {_kind(value)}, must be a mapping")
        hints = typing.get_type_hints(target)
        for key in value:
            if key not in hints:
                raise ValueError(f"{name} has the unknown key {_key(key)!r}; allowed are {', '.join(hints)}")
        # A flat name for the fields at the top, a dotted one below: what a user searches for.
        prefix = "" if name in ("contract", "options", "recipe") else f"{name}."
        given = {key: from_mapping(hints[key], item, f"{prefix}{key}") for key, item in value.items()}
        try:
            return cast(Any, target)(**given)
        except TypeError:
            # Fields without a default come first.
            missing = next(one.name for one in fields(target) if one.name not in given)
            raise ValueError(f"{prefix}{missing} is missing") from None
    origin, arguments = typing.get_origin(target), typing.get_args(target)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (target,) = [a for a in arguments if a is not type(None)]
        return from_mapping(target, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {shortened(value)}, must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise TypeError(f"{name} is {_kind(value)}, must be a list of {len(arguments)} numbers")
        return tuple(
            from_mapping(a, v, f"{name}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{name} is {_kind(value)}, must be a mapping")
        return {
            from_mapping(arguments[0], k, f"{name} key"): from_mapping(
                arguments[1], v, f"{name}.{printable(str(_key(k)))}"
            )
            for k, v in value.items()
        }
    if target is Any:
        return value
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} is {shortened(value)}, which is too large") from None
    if not isinstance(value, target) or (isinstance(value, bool) and target is not bool):
        raise TypeError(f"{name} is {_kind(value)}, must be {_TYPE_NAMES.get(target, target.__name__)}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def shortened(value: object) -> str:
    """A value of any kind and size as an error names it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # very deep, or a number of thousands of digits
        text = "..."
    return text if len(text) <= 40 else text[:37] + "..."


def _kind(value: object) -> str:
    """The value and its type."""
    return f"{shortened(value)} ({type(value).__name__})"


def _key(key: object) -> object:
    """A key as an error names it."""
    return key[:40] + "..." if isinstance(key, str) and len(key) > 43 else key


_MOST_BYTES = 1 << 20
_DEEPEST = 20


def _error(problem: str, where: yaml.Event | yaml.Node) -> yaml.YAMLError:
    mark = where.start_mark
    return yaml.YAMLError(problem if mark is None else f"{problem} (line {mark.line + 1})")


class _Loader(yaml.SafeLoader):
    """Plain values alone: an alias or deep nesting can make gigabytes of a few bytes, and of two equal keys
    the last would win without a word."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases are not allowed", event)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _error(f"more than {_DEEPEST} levels are not allowed", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise _error(f"the key {key.value[:40]!r} is given twice", key)
                keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping, with plain values only.

    Raises:
        ConfigError: the file cannot be read or is larger than 1 MB, is not YAML, has tags such as
            ``!!python/object``, aliases, a key twice or more than 20 levels, or is not a mapping.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: cannot be read: it is not a file")
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: is larger than 1 MB, so it is no file of options")
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, a number of 5,000 digits
        problem = printable(" ".join(str(error).split())[:200])
        raise ConfigError(f"{path}: is not plain YAML: {problem}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of options, holds {type(data).__name__}")
    return data


def build(target: Any, data: Mapping[str, Any], *, kind: str, where: str | Path) -> Any:
    """Make the dataclass ``target`` from ``data``; ``where`` is named in errors.

    Raises:
        ConfigError: an unknown or missing key, a wrong type or an invalid value.
    """
    try:
        return from_mapping(target, dict(data), kind)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
