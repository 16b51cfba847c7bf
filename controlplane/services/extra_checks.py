"""Checks of `extra` that need more than one layer: what would agents run?

A change is judged by what it makes wrong. What was wrong before it (a schema registered by force,
an agent registered since) hinders nobody from changing something else, or from mending it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from controlplane.domain.configs import (
    ConfigLayer,
    ConfigSchema,
    Json,
    effective_violations,
    layer_key,
    merge,
)
from controlplane.domain.configs.document import nested
from controlplane.domain.configs.extra_schema import EXTRA_SCHEMA_KEY
from controlplane.domain.configs.extra_validator import OnlyNew
from controlplane.domain.configs.schema import EXTRA
from controlplane.domain.configs.validation import refuse
from controlplane.domain.errors import FieldViolation
from controlplane.services.ports import Collection, Expect, Require
from controlplane.services.read_model import NamespaceView

MAX_REPORTED_AGENTS = 100
"""Agents looked for: whoever breaks a hundred needs to know that, not the other thousands."""

_BELOW = EXTRA + "."

Chain = tuple[str, Sequence[ConfigLayer]]
"""An agent_id and the layers that apply to the agent."""

Wrong = tuple[FieldViolation, ...]


def schema_for_change(view: NamespaceView, current: ConfigLayer | None) -> ConfigSchema:
    """Return what a change of one layer is checked against; `current` is the layer as it is."""
    schema = view.config_schema()
    if schema.extra is None or current is None:
        return schema
    before = {path.removeprefix(_BELOW): value for path, value in _extra(current).items()}
    return schema.with_extra(OnlyNew(schema.extra, nested(before)))


def guard(
    view: NamespaceView, current: ConfigLayer | None, fresh: ConfigLayer
) -> tuple[Require, ...]:
    """Return the condition under which the checks of a change still hold when it is written."""
    if not _touches_extra(current, fresh):
        return ()
    revision = view.extra_schema.revision if view.extra_schema is not None else 0
    return (Require(Collection.CONFIG_SCHEMAS, EXTRA_SCHEMA_KEY, Expect(revision=revision)),)


async def refuse_wrong_merges(
    schema: ConfigSchema,
    chains: Iterable[Chain],
    current: ConfigLayer | None,
    fresh: ConfigLayer,
    *,
    prefix: str,
) -> None:
    """Refuse a change that makes the merged `extra` of any agent wrong.

    Raises:
        InvalidArgument: it does; violations name `<prefix>.extra.<path>` and an agent each.
    """
    check = schema.extra
    if check is None or not _touches_extra(current, fresh):
        return

    def judge(layers: Sequence[ConfigLayer]) -> Wrong:
        others = [layer for layer in layers if layer.scope != fresh.scope]
        before = merge([*others, current] if current is not None else others)
        only_new = schema.with_extra(OnlyNew(check, before.extra))
        return tuple(effective_violations(merge([*others, fresh]), only_new))

    agents_of: dict[FieldViolation, list[str]] = {}
    for agent_id, wrong in await violating_agents(chains, judge):
        for violation in wrong:
            agents_of.setdefault(violation, []).append(agent_id)
    refuse(
        [
            FieldViolation(f"{prefix}.{one.field}", f"{one.description}, merged for {_named(ids)}")
            for one, ids in agents_of.items()
        ]
    )


async def violating_agents(
    chains: Iterable[Chain], judge: Callable[[Sequence[ConfigLayer]], Wrong]
) -> list[tuple[str, Wrong]]:
    """Return agents with what `judge` says about their layers, at most 100.

    Agents with the same layers share one judgement. Others run between two judgements: one may
    take a tenth of a second.
    """
    judged: dict[tuple[tuple[str, int], ...], Wrong] = {}
    found: list[tuple[str, Wrong]] = []
    for agent_id, layers in chains:
        key = layer_key(layers)
        wrong = judged.get(key)
        if wrong is None:
            wrong = judged[key] = judge(layers)
            await asyncio.sleep(0)
        if wrong:
            found.append((agent_id, wrong))
            if len(found) == MAX_REPORTED_AGENTS:
                break
    return found


def _touches_extra(before: ConfigLayer | None, after: ConfigLayer) -> bool:
    return _extra(before) != _extra(after)


def _extra(layer: ConfigLayer | None) -> dict[str, Json]:
    values = layer.values if layer is not None else {}
    return {path: value for path, value in values.items() if path.startswith(_BELOW)}


def _named(agent_ids: Sequence[str]) -> str:
    more = f" and {len(agent_ids) - 1} more" if len(agent_ids) > 1 else ""
    return f"agent {agent_ids[0]}{more}"
