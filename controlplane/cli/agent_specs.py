"""Declarations of agents, from options, files and `field=value` changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.cli.arguments import json_pairs, member, read_document
from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import Registration, SpecFields

_TEXT = frozenset({"name", "version", "description", "owner", "model", "endpoint"})
_LISTS = frozenset({"capabilities", "tools"})
_COUNTS = frozenset({"max_concurrency", "timeout_seconds"})
_SPANS = frozenset({"degraded_after", "lost_after"})

CHANGEABLE = tuple(
    sorted((_TEXT - {"name", "version"}) | _LISTS | _COUNTS | _SPANS | {"tags", "activation"})
)
"""Fields of a declaration that `agents update` can change."""


def spec_changes(assignments: list[str]) -> "SpecFields":
    """Read `field=value` changes; lists are JSON or comma-separated, tags a JSON object.

    Raises:
        WrongInput: there is no such field, or a value of another type.
    """
    given = json_pairs(assignments, "--set")
    return _typed(given, CHANGEABLE, "--set")  # type: ignore[return-value]  # keys were checked


def registration(values: Mapping[str, Any], where: str) -> "Registration":
    """Build one registration from the fields of a declaration, with an optional `agent_id`.

    Raises:
        WrongInput: a field is missing, unknown, or of another type.
    """
    from fleetplane import AgentSpec, Registration  # noqa: PLC0415  # not for help

    fields = dict(values)
    agent_id = fields.pop("agent_id", "")
    if not isinstance(agent_id, str):
        raise WrongInput(f"{where}: agent_id must be text")
    missing = [name for name in ("name", "version") if not fields.get(name)]
    if missing:
        raise WrongInput(f"{where}: {' and '.join(missing)} must be given")
    spec = AgentSpec(**_typed(fields, (*CHANGEABLE, "name", "version"), where))
    return Registration(spec=spec, agent_id=agent_id)


def registrations_in(path: Path) -> "list[Registration]":
    """Read a file with one declaration, a list of them, or a list under `agents`.

    Raises:
        WrongInput: the file or a declaration cannot be used.
    """
    document = read_document(path)
    if isinstance(document, dict) and "agents" in document:
        if set(document) != {"agents"}:
            raise WrongInput(f"{path}: nothing may stand beside `agents`")
        document = document["agents"]
    entries = document if isinstance(document, list) else [document]
    if not entries:
        raise WrongInput(f"{path}: holds no agent")
    found = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise WrongInput(f"{path}: agents[{index}] must be an object with name and version")
        found.append(registration(entry, f"{path}: agents[{index}]"))
    return found


def _typed(values: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> dict[str, Any]:
    unknown = [str(name) for name in values if name not in allowed]
    if unknown:
        raise WrongInput(
            f"{where}: there is no field {', '.join(unknown)}",
            hint=f"fields: {', '.join(allowed)}",
        )
    return {name: _value(name, value, f"{where}: {name}") for name, value in values.items()}


def _value(name: str, value: Any, where: str) -> Any:
    from fleetplane import Activation  # noqa: PLC0415  # not for help

    if name in _TEXT:
        return _text(value, where)
    if name in _LISTS:
        return _list(value, where)
    if name in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise WrongInput(f"{where} must be a whole number")
        return value
    if name in _SPANS:
        return _seconds(value, where)
    if name == "activation":
        return member(Activation, _text(value, where), where)
    if not isinstance(value, Mapping):
        raise WrongInput(f'{where} must be an object such as {{"team": "search"}}')
    return {str(key): _text(one, f"{where}.{key}") for key, one in value.items()}


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongInput(f"{where} must be text")
    return str(value)


def _list(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [one.strip() for one in value.split(",") if one.strip()]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise WrongInput(f'{where} must be a list of text: ["a", "b"] or a,b')


def _seconds(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise WrongInput(f"{where} must be seconds above 0, or null for the daemon's setting")
    return float(value)
