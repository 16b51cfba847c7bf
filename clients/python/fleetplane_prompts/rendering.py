"""Fills in variables. Values are text from then on: nothing in them is ever expanded."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleetplane_prompts.template import Variable, VariableError, VariableSpec, VariableType, parse

MAX_RENDERED_BYTES: Final = 1 << 20
"""Bytes of a rendered prompt: four times the largest template; no model reads more for it."""

_BYTES_PER_TOKEN: Final = 4
"""What the tokenizers of today make of English prose; other languages and code take more tokens."""

_TOKENS_PER_MESSAGE: Final = 4
"""What the framing of a chat message costs, about."""


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """One message, filled in. A prompt that is one text has one, without a role."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, filled in."""

    messages: tuple[RenderedMessage, ...]
    size_bytes: int
    """UTF-8 bytes of all contents."""
    estimated_tokens: int
    """About how many tokens that is; see `estimated_tokens`."""


def render(
    messages: Sequence[tuple[str, str]],
    specs: Mapping[str, VariableSpec],
    values: Mapping[str, Any],
) -> Rendered:
    """Fill in the variables of a prompt.

    Args:
        messages: Role (empty for a prompt that is one text) and template of each.
        specs: What every variable takes.
        values: Its values by name.

    Raises:
        VariableError: one is missing, unknown, of another type or too long, or the result is larger
            than 1 MiB; names the variable.
    """
    for name in values:
        if name not in specs:
            raise VariableError(name, "is not known to this prompt")
    texts = {name: _text(name, spec, values) for name, spec in specs.items()}
    size = 0
    done: list[RenderedMessage] = []
    for role, template in messages:
        pieces: list[str] = []
        for part in parse(template):
            piece = texts[part.name] if isinstance(part, Variable) else part
            size += len(piece.encode("utf-8", "surrogatepass"))
            if size > MAX_RENDERED_BYTES:
                blamed = part.name if isinstance(part, Variable) else _largest(texts)
                why = f"makes the prompt larger than {MAX_RENDERED_BYTES:,} bytes"
                raise VariableError(blamed, why)
            pieces.append(piece)
        done.append(RenderedMessage(role, "".join(pieces)))
    framed = len(done) if any(message.role for message in done) else 0
    return Rendered(tuple(done), size, estimated_tokens(size, framed))


def estimated_tokens(size_bytes: int, messages: int = 0) -> int:
    """Return about how many tokens some text is: one for four bytes, and four for each message.

    Within a third for English; a guess for everything else. For bounds, not for bills.
    """
    return -(-size_bytes // _BYTES_PER_TOKEN) + messages * _TOKENS_PER_MESSAGE


def _largest(texts: Mapping[str, str]) -> str:
    return max(texts, key=lambda name: len(texts[name]), default="")


def _text(name: str, spec: VariableSpec, values: Mapping[str, Any]) -> str:
    if name not in values:
        if spec.required:
            raise VariableError(name, "is missing")
        return ""
    text = _written(name, spec.type, values[name])
    if spec.max_length and len(text) > spec.max_length:
        raise VariableError(name, f"is longer than {spec.max_length:,} characters")
    return text


def _written(name: str, kind: VariableType, value: Any) -> str:
    match kind:
        case VariableType.STRING:
            if isinstance(value, str):
                return value
            raise VariableError(name, "must be a string")
        case VariableType.BOOLEAN:
            if isinstance(value, bool):
                return "true" if value else "false"
            raise VariableError(name, "must be true or false")
        case VariableType.NUMBER:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise VariableError(name, "must be a number")
            if not math.isfinite(value):
                raise VariableError(name, "must be a finite number")
            return _number(value)
        case VariableType.JSON:
            return _json(name, value)


def _number(value: float) -> str:
    """Write whole numbers without a fraction: the wire does not keep `2.0` and `2` apart."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return str(int(value))
    return json.dumps(value)


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(
            _plain(value),
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            sort_keys=True,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise VariableError(name, "must be a JSON value") from error


def _plain(value: Any) -> Any:
    """Return a value in the types that JSON has, whole numbers as such."""
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            whole = value.is_integer() and abs(value) <= 2**53
            return int(value) if whole else value
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("a key is not a string")
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} has no counterpart in JSON")
