r"""The syntax of templates, and what variables take.

`{{name}}` is replaced; blanks within the braces are allowed. A literal `{{` is written `\{{`, and a
literal backslash in front of a variable `\\`. Everything else is text: single braces, `}}`, and
backslashes that are not in front of `{{`. There is nothing more: no expressions, no conditions, no
inclusion, so that no value and no author can make a template do anything but fill in text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

MAX_NAME_LENGTH: Final = 64
"""Characters of a variable's name."""

_PARSED_KEPT: Final = 256
"""Templates whose parts stay parsed: as many as a process uses at a time, some KiB each."""

_KEPT_LENGTH: Final = 16 * 1024
"""Characters of the longest template that stays parsed. The parts of one that is full of variables
take twenty times its own room, and whoever proposes templates chooses what is kept."""

# Backslashes are looked at from the first of a run only: from each of them takes minutes for a
# template that is all backslashes.
_OPENING: Final = re.compile(r"(?<!\\)(\\*)\{\{")
_VARIABLE: Final = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class TemplateError(ValueError):
    """A template is malformed; the message says where and how."""


class VariableError(ValueError):
    """A value does not fit.

    Attributes:
        name: Which variable.
        why: What is wrong with it, without its name and without the value.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"variable {name!r} {why}")
        self.name = name
        self.why = why


class VariableType(StrEnum):
    """What a variable takes."""

    STRING = "STRING"
    """Text, filled in as it is."""
    NUMBER = "NUMBER"
    """A finite number, as in JSON."""
    BOOLEAN = "BOOLEAN"
    """`true` or `false`."""
    JSON = "JSON"
    """Anything, as compact JSON with sorted keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableSpec:
    """What one variable takes.

    Attributes:
        type: Of which kind.
        required: Whether it must be given; else nothing is filled in where it is not.
        max_length: Longest text that is filled in, in characters; 0: no bound of its own.
        description: What it is for.
    """

    type: VariableType = VariableType.STRING
    required: bool = True
    max_length: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """The place of a variable in a template."""

    name: str


Part = str | Variable
"""Text, or the place of a variable."""


def parse(text: str) -> tuple[Part, ...]:
    """Return the parts of a template.

    Raises:
        TemplateError: what follows `{{` is no name and `}}`.
    """
    return _kept_parts(text) if len(text) <= _KEPT_LENGTH else _parts(text)


@lru_cache(maxsize=_PARSED_KEPT)
def _kept_parts(text: str) -> tuple[Part, ...]:
    return _parts(text)


def _parts(text: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    literal: list[str] = []
    places: dict[str, Variable] = {}
    position = 0
    for opening in _OPENING.finditer(text):
        if opening.start() < position:
            continue  # within a variable that was read already; it would be malformed anyway
        backslashes = len(opening[1])
        literal.append(text[position : opening.start()] + "\\" * (backslashes // 2))
        position = opening.end()
        if backslashes % 2:
            literal.append("{{")
            continue
        variable = _VARIABLE.match(text, position)
        if variable is None:
            raise TemplateError(_malformed(text, position))
        name = variable[1]
        place = places.get(name)
        if place is None:
            place = places[name] = Variable(name)
        parts.extend(("".join(literal), place))
        literal = []
        position = variable.end()
    parts.append("".join(literal) + text[position:])
    return tuple(part for part in parts if part != "")


def _malformed(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position) - 2
    return (
        f"line {line}, column {column}: `{{{{` must begin a variable such as `{{{{name}}}}`; "
        "a literal one is written `\\{{`"
    )


def variable_names(texts: Iterable[str]) -> frozenset[str]:
    """Return the names of all variables in some templates. Raises like `parse`."""
    return frozenset(
        part.name for text in texts for part in parse(text) if isinstance(part, Variable)
    )


def is_variable_name(name: str) -> bool:
    """Return whether a variable may be called so."""
    return _NAME.fullmatch(name) is not None


def escape(text: str) -> str:
    r"""Return the template that renders to `text`, whatever it holds."""
    return _OPENING.sub(lambda opening: opening[1] * 2 + "\\{{", text)
