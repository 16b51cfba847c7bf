"""What operators type, turned into values: pairs, JSON, files."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from controlplane.cli.outcomes import WrongInput

MAX_EXACT_INTEGER: Final = 2**53
"""Numbers travel as doubles: a larger integer would silently become another one."""

Member = TypeVar("Member", bound=IntEnum)


def pair(text: str, what: str) -> tuple[str, str]:
    """Split `name=value`; the value may contain `=` and be empty.

    Raises:
        WrongInput: there is no `=`, or no name before it.
    """
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise WrongInput(f"{what} must look like NAME=VALUE, not {text!r}")
    return name.strip(), value


def text_pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """Read `name=value` pairs whose values are text.

    Raises:
        WrongInput: one is malformed, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, value = pair(text, what)
        if name in pairs:
            raise WrongInput(f"{what} names {name!r} twice")
        pairs[name] = value
    return pairs


def json_pairs(texts: Iterable[str], what: str) -> dict[str, Any]:
    """Read `name=value` pairs whose values are JSON, or text where they are not.

    Raises:
        WrongInput: one is malformed, or a name is given twice.
    """
    return {name: json_or_text(value, name) for name, value in text_pairs(texts, what).items()}


def json_or_text(text: str, name: str) -> Any:
    """Read a value: `0.2`, `true`, `["a"]` are JSON, everything else is the text itself.

    A text that begins like a list, an object or a quoted string must be JSON: it is more likely
    mistyped than meant.

    Raises:
        WrongInput: it is not, or a number is not finite or not exact as a double.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        if text.lstrip()[:1] in {"[", "{", '"'}:
            raise WrongInput(f"{name}: {text!r} is not JSON ({error})") from error
        return text
    except RecursionError as error:
        raise WrongInput(f"{name}: is nested too deeply") from error
    check_numbers(value, name)
    return value


def check_numbers(value: Any, name: str) -> None:
    """Refuse numbers that would arrive as other numbers.

    Raises:
        WrongInput: a number within the value is not finite, or too large to be exact.
    """
    match value:
        case bool():
            return
        case int() if abs(value) > MAX_EXACT_INTEGER:
            raise WrongInput(f"{name}: {value} is too large to be exact; write it as a string")
        case float() if not math.isfinite(value):
            raise WrongInput(f"{name}: {value} is not a finite number")
        case dict():
            for key, inner in value.items():
                check_numbers(inner, f"{name}.{key}")
        case list():
            for index, inner in enumerate(value):
                check_numbers(inner, f"{name}[{index}]")
        case _:
            return


def json_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        WrongInput: it is something else.
    """
    value = json_or_text(text, what)
    if not isinstance(value, dict):
        raise WrongInput(f'{what} must be a JSON object such as {{"environment": "production"}}')
    return value


def member(kind: type[Member], text: str, what: str) -> Member:
    """Read a member of an enum of the contract by its short name, in any case.

    Raises:
        WrongInput: there is none; the message lists those there are.
    """
    names = {one.name: one for one in kind if one.value}
    found = names.get(text.strip().upper().replace("-", "_"))
    if found is None:
        raise WrongInput(f"{what} {text!r} is none of {', '.join(names)}")
    return found


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given: those that are not None and not empty."""
    return {name: value for name, value in values.items() if value not in (None, "", [], (), {})}


def read_document(path: Path) -> Any:
    """Read a YAML or JSON file (JSON is YAML); `-` reads standard input.

    Raises:
        WrongInput: it cannot be read or parsed; the message names the place.
    """
    import yaml  # noqa: PLC0415  # 40 ms, for commands that read files

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise WrongInput(f"{path}: {reason}") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        raise WrongInput(f"{path}{where}: {problem}") from error
