"""Prompts and data sets as files."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from controlplane.cli.outcomes import WrongInput
from fleetplane import PromptMessage, VariableSpec, VariableType

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a prompt's file: what one message of the contract carries."""

MAX_ITEMS: Final = 10_000
"""Items of an evaluation, by contract."""

_STRUCTURED: Final = frozenset({".yaml", ".yml", ".json"})
_KEYS: Final = frozenset({"text", "messages", "variables", "config"})
_VARIABLE_KEYS: Final = frozenset({"type", "required", "max_length", "description"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """What a file says."""

    content: str | list[PromptMessage]
    variables: Mapping[str, VariableSpec] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_prompt(path: str) -> PromptFile:
    """Read a prompt: YAML or JSON with text or messages, variables and config; else plain text.

    `-` is standard input, as plain text.

    Raises:
        WrongInput: it cannot be read, or says something else.
    """
    text = _text(path)
    if Path(path).suffix.lower() not in _STRUCTURED:
        return PromptFile(content=text)
    import yaml  # noqa: PLC0415  # 40 ms, for those who have such a file

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongInput(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.keys() - _KEYS:
        raise WrongInput(f"{path}: must hold text or messages, and may hold variables and config")
    if ("text" in document) == ("messages" in document):
        raise WrongInput(f"{path}: must hold either text or messages")
    config = document.get("config", {})
    if not isinstance(config, dict):
        raise WrongInput(f"{path}: config must be an object")
    return PromptFile(
        content=_messages(path, document["messages"])
        if "messages" in document
        else _of(path, "text", document["text"]),
        variables=_variables(path, document.get("variables") or {}),
        config=config,
    )


def _text(path: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise WrongInput(f"{path}: more than {MAX_FILE_BYTES:,} bytes")
        return raw.decode()
    except OSError as error:
        raise WrongInput(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WrongInput(f"{path}: is not UTF-8") from error


def _of(path: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WrongInput(f"{path}: {key} must be a text")
    return value


def _messages(path: str, messages: Any) -> list[PromptMessage]:
    if not isinstance(messages, list):
        raise WrongInput(f"{path}: messages must be a list")
    found: list[PromptMessage] = []
    for index, one in enumerate(messages):
        if not isinstance(one, dict) or one.keys() != {"role", "content"}:
            raise WrongInput(f"{path}: messages[{index}] must hold role and content")
        role = _of(path, f"messages[{index}].role", one["role"])
        content = _of(path, f"messages[{index}].content", one["content"])
        found.append(PromptMessage(role, content))
    return found


def _variables(path: str, variables: Any) -> dict[str, VariableSpec]:
    if not isinstance(variables, dict):
        raise WrongInput(f"{path}: variables must be an object")
    specs: dict[str, VariableSpec] = {}
    for name, said in variables.items():
        known = {} if said is None else said
        if not isinstance(known, dict) or known.keys() - _VARIABLE_KEYS:
            keys = ", ".join(sorted(_VARIABLE_KEYS))
            raise WrongInput(f"{path}: variables.{name} may hold {keys}")
        kind = str(known.get("type", "string")).upper()
        if kind not in VariableType.__members__:
            raise WrongInput(
                f"{path}: variables.{name}.type must be string, number, boolean or json"
            )
        specs[str(name)] = VariableSpec(
            type=VariableType(kind),
            required=bool(known.get("required", True)),
            max_length=int(known.get("max_length", 0)),
            description=str(known.get("description", "")),
        )
    return specs


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items to evaluate with, and the digest that says which they are."""

    items: tuple[dict[str, Any], ...]
    sha256: str


def read_dataset(path: Path) -> Dataset:
    """Read a data set: one JSON object per line, each with an `id` of its own.

    Its digest is that of the file, byte for byte.

    Raises:
        WrongInput: it cannot be read, a line is no object, or an `id` is missing or twice.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise WrongInput(f"{path}: {error.strerror}") from error
    items: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise WrongInput(f"{path}, line {number}: is not JSON") from error
        if not isinstance(item, dict) or not str(item.get("id", "")):
            raise WrongInput(f"{path}, line {number}: must be an object with an id")
        item_id = str(item["id"])
        if item_id in seen:
            raise WrongInput(f"{path}, line {number}: id {item_id!r} is there twice")
        seen.add(item_id)
        items.append(item)
    if not 1 <= len(items) <= MAX_ITEMS:
        raise WrongInput(f"{path}: must hold 1-{MAX_ITEMS:,} items, not {len(items):,}")
    return Dataset(tuple(items), f"sha256:{hashlib.sha256(raw).hexdigest()}")
