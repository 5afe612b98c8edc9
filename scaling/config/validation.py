"""What every configuration section is made of: validation that names key, value and remedy, and YAML at its edge.

Unknown keys and wrong types are a `ConfigError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from yaml.parser import ParserError
from yaml.scanner import ScannerError

from data_pipeline.errors import UserError
from data_pipeline.foreign import kind_of
from data_pipeline.text import is_safe, shown
from scaling.config.yaml_text import MAX_CHARACTERS, MAX_DEPTH, parse_yaml

MAX_LINES = 20  # mistakes of one file that are shown
MAX_MESSAGE = 500  # characters of one of them
# Mistakes for which pydantic has words of its own, not of a user's: what to write instead.
PLAIN = {
    "tuple_type": "a list belongs here, in brackets: write {path}=[{value}]",
    "model_type": "a section of keys belongs here: write {path}.KEY=VALUE",
    "dict_type": "keys and values belong here, in braces: write {path}={{KEY: VALUE}}, or {path}={{}} for none",
    "string_type": "a text belongs here; a number is one in quotes of its own, such as \"'12'\"",
    "path_type": "a path belongs here",
    "int_type": "a whole number belongs here",
    "int_parsing": "a whole number belongs here, in digits alone, such as 1000",
    "int_from_float": "a whole number belongs here",
    "float_type": "a number belongs here",
    "float_parsing": "a number belongs here, with a point, such as 0.5 or 1.5e-3",
    "bool_type": "true or false belongs here",
    "bool_parsing": "true or false belongs here",
    "too_short": "holds too few entries: there must be {min_length} at least",
    "too_long": "holds too many entries: there may be {max_length} at most",
}
S = TypeVar("S", bound="Section")


class ConfigError(UserError):
    """A mistake in a configuration: the message names the file, the key, the value and the remedy."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are fixed once read, true and false are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truths(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, no, on and off as true and false, which Python counts as 1 and 0."""
        assert info.field_name is not None, "pydantic names the field"
        if _holds_truth(value) and _of_numbers(cls.model_fields[info.field_name].annotation):
            raise ValueError("a number belongs here, and yes, no, on, off, true and false are none in YAML")
        return value


def each_once(key: str, values: Sequence[Any], what: str = "an entry") -> None:
    """ValueError where one of the values of a key stands twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"{key}: {list(values)} repeats {what}: name each once")


def _holds_truth(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_truth(each) for pair in value.items() for each in pair)
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _of_numbers(annotation: Any) -> bool:
    """Whether a type takes numbers, alone or in lists and mappings, and no truth value."""
    kinds = set(_leaves(annotation))
    return bool(kinds & {int, float}) and kinds <= {int, float, type(None), ...}


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that a type is made of, bounds and containers taken off."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    elif get_origin(annotation) is Literal:
        arguments = tuple(type(argument) for argument in arguments)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError names the file where it cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(4 * MAX_CHARACTERS + 1)
        if what := kind_of(data):
            raise ConfigError(f"{path}: is {what}")
        if len(data) > 4 * MAX_CHARACTERS:
            raise ConfigError(f"{path}: is longer than {4 * MAX_CHARACTERS:,} bytes: is it the file you meant?")
        content = parse_yaml(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {_cut(str(error))}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {_cut(str(error))}") from error
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else f"{shown(content)} alone"
        what = "is empty" if content is None else f"holds {kind}"
        raise ConfigError(f"{path}: {what}, expected keys and values, such as name: mine")
    return content


def validate(section: type[S], content: object, where: str) -> S:
    """Build a section from plain values; ConfigError lists every mistake with its key and value."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        found = _without_echoes(error.errors())
        lines = [f"  {_cut(_explain(section, detail))}" for detail in found[:MAX_LINES]]
        if len(found) > MAX_LINES:
            lines.append(f"  and {len(found) - MAX_LINES:,} more")
        raise ConfigError("\n".join([f"{where}:", *lines])) from None
    except ConfigError as error:  # of a section that is built while this one is checked
        raise ConfigError(f"{where}: {error}") from None


def describe(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key below a section: (dotted key, type, default, description)."""
    for key, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from describe(inner, f"{prefix}{key}.")
            continue
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        yield f"{prefix}{key}", _type_name(field.annotation), default, field.description or ""


def _type_name(annotation: Any) -> str:
    """A type without the bounds of its values: "tuple[float, float] | None"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(_type_name(argument) for argument in arguments)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if annotation in (None, type(None), ...):
        return "..." if annotation is ... else "None"
    name = origin.__name__ if origin else annotation.__name__
    return f"{name}[{', '.join(map(_type_name, arguments))}]" if arguments else name


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint for a mistyped word: the nearest known one, else all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def choices(word: str, known: Sequence[str]) -> str:
    """As `nearest`, with all that are known behind it."""
    hint, all_known = nearest(word, known), f"known: {', '.join(known)}"
    return hint if hint == all_known else f"{hint} {all_known}"


def _section_of(annotation: Any) -> type[Section] | None:
    """The section behind a field's type, through an optional."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _without_echoes(details: Sequence[Any]) -> list[Any]:
    """Mistakes but those that follow from others: a list whose entries are wrong counts as too short to pydantic."""
    inner = {detail["loc"][:-1] for detail in details}
    return [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in inner]


def _explain(section: type[Section], detail: Any) -> str:
    """One line for one mistake."""
    path = ".".join(_name(str(part)) for part in detail["loc"] if part != "[key]")  # pydantic's mark of a wrong key
    if detail["type"] == "extra_forbidden":
        parent: type[Section] | None = section
        for part in detail["loc"][:-1]:
            if parent and part in parent.model_fields:  # not the name of an alternative
                parent = _section_of(parent.model_fields[part].annotation)
        known = list(parent.model_fields) if parent else []
        return f"{path}: unknown key (value {shown(detail['input'])}); {nearest(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{path}: is required and missing"
    if detail["type"] in PLAIN:
        value = shown(detail["input"]).strip("'")
        message = PLAIN[detail["type"]].format(path=path, value=value, **detail.get("ctx", {}))
    else:
        message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{path}: {message} (value {shown(detail['input'])})" if path else message


def _name(part: str) -> str:
    """A key as it is written, unless a terminal could not show it in a line."""
    return part if is_safe(part) and len(part) <= 80 else shown(part)


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one key.sub=value in the mapping."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {shown(override)}: write it as key=value or key.sub=value")
    try:
        value = parse_yaml(text)
    except (ScannerError, ParserError) as error:
        remedy = f"close every bracket and quote, and quote a text with signs in it: {key}=[a, b], {key}='a: b'"
        raise ConfigError(f"override {shown(override)}: the value is not valid YAML: {remedy}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"override {shown(override)}: the value is not valid YAML: {_cut(str(error))}") from error
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise ConfigError(f"override {shown(override)}: more than {MAX_DEPTH} sections deep: take dots out of it")
    for part in parents:
        inner = content.get(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {shown(override)}: {part} holds {shown(inner)}, not a section")
        content[part] = dict(inner)  # a copy: sections that a YAML alias repeats are one mapping
        content = content[part]
    content[last] = value
