"""Configuration, layers and differences as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from controlplane.cli.config_scopes import scope_name
from controlplane.cli.moments import moment
from controlplane.cli.rendering import Column, fields, short, table
from fleetplane import ConfigStatus, EffectiveConfig, Scope, from_struct
from fleetplane.v1 import config_service_pb2

_ABSENT = "(none)"
"""Shown for a value that is not set."""


def leaves(config: EffectiveConfig) -> dict[str, Any]:
    """Return the effective configuration as dotted paths and values."""
    values: dict[str, Any] = {
        "model": config.model,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "max_retries": config.max_retries,
        "timeout_seconds": config.timeout_seconds,
        "rate_limit_rpm": config.rate_limit_rpm,
    }
    values |= {f"features.{name}": on for name, on in sorted(config.features.items())}
    values["blocked_tools"] = list(config.blocked_tools)
    if config.allowed_domains is not None:
        values["allowed_domains"] = list(config.allowed_domains)
    values |= {f"extra.{name}": value for name, value in sorted(config.extra.items())}
    return values


def config_table(config: EffectiveConfig) -> str:
    """Lay out an effective configuration."""
    rows = [(path, short(value)) for path, value in leaves(config).items()]
    if config.allowed_domains is None:
        rows.append(("allowed_domains", "(any)"))
    return table((Column("PATH"), Column("VALUE", flexible=True)), rows)


def explained_table(response: config_service_pb2.GetConfigResponse) -> str:
    """Lay out an effective configuration with the layer that decided each leaf."""
    config = EffectiveConfig.from_message(response.config)
    values = leaves(config)
    rows = []
    for source in response.sources:
        path, revision = source.path, f"r{source.revision}" if source.revision else ""
        rows.append((path, _value_at(path, values), source.layer, revision))
    columns = (
        Column("PATH", flexible=True),
        Column("VALUE", flexible=True),
        Column("LAYER", flexible=True),
        Column("REVISION", right=True),
    )
    return table(columns, rows)


def _value_at(path: str, values: Mapping[str, Any]) -> str:
    """Return the value of a source's path; an element of a merged list is `path[element]`."""
    if path in values:
        return short(values[path])
    whole, bracket, element = path.partition("[")
    if bracket and whole in values:
        return element.removesuffix("]")
    inner: Any = values
    if whole.startswith("extra."):
        name, *rest = whole.removeprefix("extra.").split(".")
        inner = values.get(f"extra.{name}", _ABSENT)
        for part in rest:
            inner = inner.get(part, _ABSENT) if isinstance(inner, dict) else _ABSENT
        return short(inner)
    return _ABSENT


def layer_details(layer: config_service_pb2.ConfigLayer) -> str:
    """Lay out one sparse layer."""
    head = fields(
        {
            "layer": scope_name(Scope.from_message(layer.scope)),
            "revision": str(layer.revision),
            "restored from": str(layer.restored_from or ""),
            "author": layer.author,
            "reason": layer.reason,
            "changed": moment(layer.updated_at),
            "may widen": ", ".join(layer.may_widen),
        }
    )
    values = from_struct(layer.values)
    if not values:
        return f"{head}\n\nNothing is set in this layer."
    rows = [(path, short(values[path])) for path in sorted(values)]
    return f"{head}\n\n{table((Column('PATH'), Column('VALUE', flexible=True)), rows)}"


def history_table(layers: Iterable[config_service_pb2.ConfigLayer]) -> str:
    """Lay out the history of a layer, newest first."""
    columns = (
        Column("REVISION", right=True),
        Column("WHEN"),
        Column("AUTHOR", flexible=True),
        Column("REASON", flexible=True),
        Column("RESTORED", right=True),
        Column("VALUES", flexible=True),
    )
    rows = [
        (
            str(one.revision),
            moment(one.updated_at),
            one.author,
            one.reason,
            f"r{one.restored_from}" if one.restored_from else "",
            assignments(from_struct(one.values)),
        )
        for one in layers
    ]
    return table(columns, rows)


def assignments(values: Mapping[str, Any]) -> str:
    """Return values as they would be typed."""
    return " ".join(f"{path}={short(values[path])}" for path in sorted(values))


def effects_table(agents: Sequence[config_service_pb2.AgentConfigDifference]) -> str:
    """Lay out what a change would mean for each agent."""
    columns = (
        Column("AGENT", flexible=True),
        Column("PATH", flexible=True),
        Column("BEFORE", flexible=True),
        Column("AFTER", flexible=True),
    )
    rows = []
    for agent in agents:
        for one in agent.differences:
            before = _shown_value(one.before) if one.HasField("before") else _ABSENT
            after = _shown_value(one.after) if one.HasField("after") else _ABSENT
            rows.append((agent.agent_id, one.path, before, after))
    return table(columns, rows)


def _shown_value(value: Value) -> str:
    return short(from_struct(Struct(fields={"": value}))[""])


def changes(before: EffectiveConfig | None, after: EffectiveConfig) -> list[str]:
    """Return the leaves that differ as `path: before -> after`; without a before, all leaves."""
    new = leaves(after)
    if before is None:
        return [f"{path}: {short(value)}" for path, value in new.items()]
    old = leaves(before)
    paths = [*new, *(path for path in old if path not in new)]
    return [
        f"{path}: {_shown(old, path)} -> {_shown(new, path)}"
        for path in paths
        if old.get(path, _ABSENT) != new.get(path, _ABSENT)
    ]


def _shown(values: Mapping[str, Any], path: str) -> str:
    return short(values[path]) if path in values else _ABSENT


def laggards_table(laggards: Iterable[config_service_pb2.ConfigLaggard]) -> str:
    """Lay out who does not run a revision yet, and why."""
    columns = (
        Column("INSTANCE", flexible=True),
        Column("AGENT", flexible=True),
        Column("STATUS"),
        Column("RUNS", right=True),
        Column("TRIED", right=True),
        Column("ERROR", flexible=True),
    )
    rows = [
        (
            one.instance_id,
            one.agent_id,
            ConfigStatus(one.config.status).name,
            f"r{one.config.running_revision}",
            f"r{one.config.attempted_revision}",
            one.config.error,
        )
        for one in laggards
    ]
    return table(columns, rows)
