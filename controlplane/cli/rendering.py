"""What commands print: tables for people, JSON and YAML for programs."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from controlplane.cli.call import Output
from controlplane.cli.styles import STATUS_COLOURS, Colour, coloured, printable, wants_colour

if TYPE_CHECKING:  # protobuf is imported by the SDK, when a command calls
    from google.protobuf.message import Message

GAP: Final = "  "
"""Between two columns."""

NARROWEST: Final = 8
"""Cells to which a column is cut at most before the line is allowed to wrap."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    """Its head."""
    right: bool = False
    """Whether it holds numbers, which are aligned at their ends."""
    flexible: bool = False
    """Whether it may be cut when the terminal is too narrow."""


def width_of(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` cells, its end replaced by an ellipsis."""
    if width_of(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += _cells(character)
        if used > width - 1:
            break
        kept += character
    return kept + "…"


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table: no borders, one line per row, fitted to the terminal if there is one.

    Piped output is never cut. Words such as ACTIVE or DENY are coloured on a terminal.
    """
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    widths = [
        max([width_of(column.title), *(width_of(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    if sys.stdout.isatty():
        _fit(columns, widths, shutil.get_terminal_size().columns)
    heads = [column.title for column in columns]
    lines = [coloured(_line(columns, heads, widths), Colour.STRONG)]
    colours = wants_colour(sys.stdout)
    lines += [_line(columns, row, widths, colours=colours) for row in cells]
    return "\n".join(lines)


def _fit(columns: Sequence[Column], widths: list[int], available: int) -> None:
    """Narrow the widest flexible column, again and again, until the line fits."""
    flexible = [index for index, column in enumerate(columns) if column.flexible]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - available
    while excess > 0 and flexible:
        widest = max(flexible, key=lambda index: widths[index])
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1
        excess -= 1


def _line(
    columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], *, colours: bool = False
) -> str:
    parts = []
    for column, cell, width in zip(columns, row, widths, strict=True):
        text = cut(cell, width)
        padding = " " * (width - width_of(text))
        shown = coloured(text, STATUS_COLOURS.get(cell)) if colours else text
        parts.append(padding + shown if column.right else shown + padding)
    return GAP.join(parts).rstrip()


def fields(values: Mapping[str, str]) -> str:
    """Lay out names and values of one object, one per line; empty values are left out."""
    shown = {name: printable(value) for name, value in values.items() if value}
    width = max(map(width_of, shown), default=0)
    colours = wants_colour(sys.stdout)
    return "\n".join(
        f"{coloured(name.ljust(width), Colour.FAINT)}{GAP}"
        + (coloured(value, STATUS_COLOURS.get(value)) if colours else value)
        for name, value in shown.items()
    )


def as_dict(message: "Message") -> dict[str, Any]:
    """Return a message as protobuf JSON, with the names of the contract and every field."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  # not for help

    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def write(text: str) -> None:
    """Write to standard output, ending with a newline if there is anything."""
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def note(text: str) -> None:
    """Write a remark to standard error, where no program takes it for the answer."""
    sys.stderr.write(coloured(printable(text), Colour.FAINT, sys.stderr) + "\n")
    sys.stderr.flush()


def write_value(output: Output, value: Any) -> None:
    """Write a value for programs: one JSON document, or one YAML document."""
    if output is Output.YAML:
        import yaml  # noqa: PLC0415  # 40 ms, for those who ask for YAML

        write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n"))
    else:
        write(json.dumps(value, indent=2, ensure_ascii=False))


def write_event(output: Output, value: Any) -> None:
    """Write one of many values for programs: a line of JSON, or one of many YAML documents."""
    if output is Output.YAML:
        write("---")
        write_value(output, value)
    else:
        write(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def short(value: Any) -> str:
    """Return a JSON value as short text: strings bare, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
