"""What a namespace holds and uses, counted in this replica's copy."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

from controlplane.domain.agents import AgentStatus
from controlplane.domain.configs import ConfigLayer
from controlplane.domain.configs.document import encoded
from controlplane.domain.namespace_rules import Content
from controlplane.domain.namespaces import Quota, Quotas
from controlplane.domain.selection import AgentFilter
from controlplane.services.ports import Collection, Position
from controlplane.services.prompts.catalogue import PromptBytes, prompts_of
from controlplane.services.read_model import NamespaceView, ReadModel

MEASURED_NAMESPACES: Final = 1_024
"""Namespaces whose layers' sizes are remembered, at some 100 bytes a layer; measuring those of one
more costs 10 us a layer once."""

MEASURED_AT_ONCE: Final = 256
"""Layers measured before others have their turn: a few milliseconds."""

_DECOMMISSIONED: Final = AgentFilter(statuses=frozenset({AgentStatus.DECOMMISSIONED}))


class CallMeter(Protocol):
    """What this replica does for a namespace now; it is in no ledger."""

    def streams_of(self, namespace: str) -> int:
        """Return the open heartbeat and task streams."""

    def watches_of(self, namespace: str) -> int:
        """Return the open watches."""

    def calls_per_second_of(self, namespace: str) -> float:
        """Return the calls per second over the last seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What is used.

    Attributes:
        used: In the units of the quotas.
        position: Up to where what is kept was counted.
    """

    used: Quotas
    position: Position


def agents_in(view: NamespaceView) -> int:
    """Return how many agents are not decommissioned."""
    (gone,) = view.index.rarest(_DECOMMISSIONED, 1)
    return len(view.agents) - len(gone)


def waiting_tasks_in(view: NamespaceView) -> int:
    """Return how many tasks neither run nor have ended: no instance has accepted them yet."""
    tasks = view.work.tasks
    return len(tasks.waiting) + len(tasks.unaccepted)


def content_of(view: NamespaceView) -> Content:
    """Return what keeps a namespace from being removed.

    What has come to its end does not: decommissioned agents, ended tasks and rollouts, drains and
    stops, pins, layers in which nothing is set any more.
    """
    tasks = view.work.tasks
    schema = view.extra_schema
    return Content(
        agents=agents_in(view),
        config_layers=sum(1 for layer in view.layers.values() if layer.values),
        config_schemas=1 if schema is not None and schema.document else 0,
        policies=len(view.policies),
        routes=len(view.work.routes),
        unfinished_tasks=len(tasks.waiting)
        + sum(len(tasks.held_by(instance_id)) for instance_id in tasks.holders()),
        active_rollouts=len(view.work.active_rollouts),
        running_experiments=len(view.governance.table(Collection.ACTIVE_EXPERIMENTS)),
    )


class ConfigBytes:
    """Measures configuration: bytes of all layers of a namespace, as JSON."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, tuple[ConfigLayer, int]]] = {}
        """namespace -> key of a layer -> the layer as it was measured, and its bytes"""

    async def of(self, view: NamespaceView) -> int:
        """Return the bytes of all layers; only those that changed are measured anew."""
        known = self._known.get(view.name, {})
        fresh: dict[str, tuple[ConfigLayer, int]] = {}
        measured = 0
        for key, layer in tuple(view.layers.items()):
            before = known.get(key)
            if before is not None and before[0] is layer:
                fresh[key] = before
                continue
            fresh[key] = layer, layer_bytes(layer)
            measured += 1
            if measured % MEASURED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if len(self._known) >= MEASURED_NAMESPACES and view.name not in self._known:
            self._known.clear()
        self._known[view.name] = fresh
        return sum(size for _, size in fresh.values())


def layer_bytes(layer: ConfigLayer | None) -> int:
    """Return the bytes of one layer, as JSON; 0 for none and for one in which nothing is set."""
    return len(encoded(dict(layer.values))) if layer is not None and layer.values else 0


class Usage:
    """Counts what namespaces use."""

    def __init__(
        self, read_model: ReadModel, sizes: ConfigBytes, meter: CallMeter | None = None
    ) -> None:
        """Count in `read_model`; `meter` (None: nobody) knows the streams and calls of here."""
        self._read_model = read_model
        self._sizes = sizes
        self._meter = meter
        self._prompt_bytes = PromptBytes()

    async def of(self, namespace: str) -> UsageReport:
        """Return what is used of each quota of a namespace, whether it exists or not.

        Raises:
            NotReady: this replica has not loaded its first snapshot yet.
        """
        view = self._read_model.view(namespace)
        config_bytes = await self._sizes.of(view)
        meter = self._meter
        used = Quotas(
            agents=agents_in(view),
            instances=len(view.instances),
            streams=meter.streams_of(namespace) if meter is not None else 0,
            watches=meter.watches_of(namespace) if meter is not None else 0,
            policies=len(view.policies),
            config_bytes=config_bytes,
            waiting_tasks=waiting_tasks_in(view),
            calls_per_second=ceil(meter.calls_per_second_of(namespace)) if meter is not None else 0,
            prompts=len(prompts_of(view)),
            prompt_bytes=self._prompt_bytes.of(view),
        )
        return UsageReport(used=used, position=view.position)


COUNTED: Final[Mapping[Quota, Callable[[NamespaceView], int]]] = {
    Quota.AGENTS: agents_in,
    Quota.INSTANCES: lambda view: len(view.instances),
    Quota.POLICIES: lambda view: len(view.policies),
    Quota.WAITING_TASKS: waiting_tasks_in,
    Quota.PROMPTS: lambda view: len(prompts_of(view)),
}
"""Quotas of things that are counted, each with how."""
