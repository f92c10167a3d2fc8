"""Typed configuration: YAML in, immutable pydantic models out, errors that name the key.

Types are strict: ``true`` is not a number and ``"8"`` not an integer.
:mod:`landcover.textfiles` reads the YAML.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from landcover.errors import ConfigError, UsageError, did_you_mean
from landcover.textfiles import INTEGER, NUMBER, parse_yaml, read_yaml


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error.

    Attributes:
        key_aliases: Other spellings of keys, such as ``optimizer`` for ``optimiser``.
        key_hints: What to do in place of keys that do not exist, such as ``epochs``.
    """

    key_aliases: ClassVar[Mapping[str, str]] = {}
    key_hints: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True)


MAIN, INPUT, PROCESSING, PRODUCTS, REPORTS = "Most used", "Input", "Processing", "Products", "Reports"
"""Groups of options in the command line's help."""


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """Declaration of one option, in the ``Annotated`` type of a field of :class:`Options`.

    Attributes:
        help: Its text in the command line's help and the reference.
        group: Heading of the help that it is listed under; None: the command line does not have it.
        flag: Its name on the command line, if that is not the field's with dashes.
        metavar: Placeholder for its value.
        minimum: Smallest value of a number.
        changes_map: Whether the map depends on it, so that ``--resume`` compares it.
    """

    help: str
    group: str | None
    flag: str | None = None
    metavar: str | None = None
    minimum: int | None = None
    changes_map: bool = True


class Options(Config):
    """Base of option groups that Python users build: a wrong value is a :class:`UsageError`."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(" ".join(_faults(type(self), error))) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        listed = "\n".join(f"        {name}: {option.help}" for name, option in cls.declared().items())
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n\n    Attributes:\n{listed}\n    "

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Return the declaration of each field, by name."""
        return {
            name: next(part for part in field.metadata if isinstance(part, Option))
            for name, field in cls.model_fields.items()
        }


C = TypeVar("C", bound=BaseModel)
OptionsT = TypeVar("OptionsT", bound=Options)


def with_deprecated(
    options: OptionsT, keywords: Mapping[str, Any], function: str, renamed: Mapping[str, str] | None = None
) -> OptionsT:
    """Return options with keywords of a function in version 0.1 put into their fields."""
    if not keywords:
        return options
    given = {(renamed or {}).get(name, name): value for name, value in keywords.items()}
    known = type(options).model_fields.keys()
    if unknown := given.keys() - known:
        hint = did_you_mean(min(unknown), known)
        raise TypeError(f"{function}() got an unexpected keyword argument {min(unknown)!r}. {hint}")
    warnings.warn(
        f"{function}({', '.join(f'{name}=...' for name in keywords)}) is deprecated and will be removed in "
        f"version 0.3. Pass options=landcover.{type(options).__name__}(...).",
        DeprecationWarning,
        stacklevel=3,
    )
    return type(options)(**{**dict(options), **given})


_SHOWN_FAULTS = 8


class _Dumper(yaml.SafeDumper):
    """Safe YAML that puts a text in quotes where YAML 1.2 would read another value, such as ``1e-3``."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in (("int", INTEGER), ("float", NUMBER)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), list("-+0123456789.")
    )


def from_mapping(cls: type[C], data: Mapping[str, Any], source: str) -> C:
    """Validate plain data, keys and values as YAML or JSON hold them, as ``cls``.

    Raises:
        ConfigError: If keys are unknown or missing, or values wrong. Every fault is listed by its dotted key,
            with what was found and expected; the message is one line that begins with ``source``.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: expected keys and values, found {_shown(data)}.")
    for alias, key in getattr(cls, "key_aliases", {}).items():
        if alias in data:
            if key in data:
                raise ConfigError(f"{source}: {alias!r} and {key!r} are the same key; keep one of them.")
            data = {(key if name == alias else name): value for name, value in data.items()}
    try:
        # JSON is the strict mode that still turns lists into tuples and text into paths.
        return cls.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{source}: {' '.join(_faults(cls, error))}") from error


def load_config(cls: type[C], path: Path) -> C:
    """Read a YAML file as ``cls``; ConfigError as for :func:`from_mapping`."""
    data = read_yaml(path)
    return from_mapping(cls, {} if data is None else data, str(path))


def with_overrides(config: C, assignments: Iterable[str]) -> C:
    """Return a copy of ``config`` with values replaced by texts such as ``optimiser.learning_rate=1e-3``."""
    data = config.model_dump(mode="json")
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        key = name.strip()
        parts = key.split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"Found {assignment!r}; expected KEY=VALUE, such as optimiser.learning_rate=1e-3."
            )
        if isinstance(config, Config):
            parts[0] = config.key_aliases.get(parts[0], parts[0])
        target = data
        for depth, part in enumerate(parts[:-1], 1):
            if target.get(part) is None:
                target[part] = {}
            if not isinstance(target[part], dict):
                holder = ".".join(parts[:depth])
                raise ConfigError(f"{key} cannot be set: {holder} is {_shown(target[part])} without keys.")
            target = target[part]
        target[parts[-1]] = parse_yaml(text, assignment)
    return from_mapping(type(config), data, "settings")


def dump_yaml(config: BaseModel) -> str:
    """Return ``config`` as YAML that :func:`load_config` reads back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def _faults(cls: type[BaseModel], error: ValidationError) -> list[str]:
    """Return a sentence for each different fault, at most the first few."""
    faults = error.errors(include_url=False)
    sentences = list(dict.fromkeys(_explain(cls, fault) for fault in faults[:_SHOWN_FAULTS]))
    return sentences + (
        [f"{len(faults) - _SHOWN_FAULTS} more problems."] if len(faults) > _SHOWN_FAULTS else []
    )


def _explain(cls: type[BaseModel], fault: Mapping[str, Any]) -> str:
    location, kind, found = fault["loc"], fault["type"], fault["input"]
    # Between keys pydantic names the tried member of a union, which is left out.
    parts, tables = [], _tables(cls)
    for depth, part in enumerate(location, 1):
        inner = [table[part] for table in tables if part in table]
        if inner or isinstance(part, int) or depth == len(location):
            parts.append(str(part))
        tables = [table for annotation in inner for table in _tables(annotation)] or tables
    key = ".".join(parts) or "the whole"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        if hint := getattr(cls, "key_hints", {}).get(key):
            return f"unknown key {key!r}. {hint}"
        known = {name for table in tables for name in table}
        nested = [  # dotted keys whose last part is this one
            f"{outer}.{key}"
            for outer, field in cls.model_fields.items()
            for table in _tables(field.annotation)
            if key in table and isinstance(field.annotation, type)
        ]
        if len(parts) == 1 and nested:
            return f"unknown key {key!r}. Did you mean {' or '.join(map(repr, nested))}?"
        return f"unknown key {key!r}. {did_you_mean(parts[-1], known)}"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing."
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UsageError) and issubclass(cls, Options):
        return str(cause)  # a complete message
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected").rstrip(".")
    message = message.replace("a valid array", "a list in square brackets")
    if kind == "value_error" and isinstance(found, Mapping):
        # A check of several values names them itself.
        return f"{message}." if not parts or message.startswith(f"{key}.") else f"{key}: {message}."
    hint = " YAML needs quotes around texts such as true and 1." if kind == "string_type" else ""
    return f"{key}: found {_shown(found)}; {message[0].lower()}{message[1:]}.{hint}"


def _tables(kind: Any) -> list[dict[str, Any]]:
    """Return the fields, with their types, of each class in a type such as ``tuple[A | B, ...] | None``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [{name: field.annotation for name, field in kind.model_fields.items()}]
    if dataclasses.is_dataclass(kind):
        return [{field.name: field.type for field in dataclasses.fields(kind)}]
    return [table for argument in get_args(kind) for table in _tables(argument)]


def _shown(value: Any) -> str:
    """Return a value for a message, shortened to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
