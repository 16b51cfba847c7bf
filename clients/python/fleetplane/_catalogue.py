"""A watched copy of the registry: discovery without a call."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, Unpack

from fleetplane._client import FleetClient
from fleetplane._config import NOWHERE, Position
from fleetplane._enums import AgentStatus
from fleetplane._exceptions import FleetError
from fleetplane._spec import FilterFields
from fleetplane._values import one_of
from fleetplane._watches import AgentsChanged, AgentsEvent, AgentsSnapshot, AgentWatch
from fleetplane.v1 import agent_pb2

_log: Final = logging.getLogger("fleetplane")

_Index = dict[tuple[str, ...], set[str]]
_EMPTY: Final[frozenset[str]] = frozenset()

ACTIVE_ONLY: Final = (AgentStatus.ACTIVE,)
"""Statuses a look-up considers unless told otherwise."""


def _keys(agent: agent_pb2.Agent) -> Iterable[tuple[str, ...]]:
    """List what an agent is found by."""
    spec = agent.spec
    yield ()
    yield ("name", spec.name)
    yield ("owner", spec.owner)
    yield ("model", spec.model)
    for capability in spec.capabilities:
        yield ("capability", capability)
    for tool in spec.tools:
        yield ("tool", tool)
    for key, value in spec.tags.items():
        yield ("tag", key, value)


class Catalogue:
    """The agents of a namespace, kept up to date by one watch, indexed for look-ups.

    Use it as an asynchronous context manager, and wait for `ready` once. A look-up costs a few
    microseconds and no call; it may be older than the registry by the time a change takes to
    arrive, and by `age` when the plane is away. What was last known stays available then.

        async with Catalogue(client) as catalogue:
            await catalogue.ready()
            translators = catalogue.discover(capabilities=["translate"], tags={"tier": "gold"})

    Args:
        client: an open client; it must outlive the catalogue.
        **conditions: which agents to hold; by default all, of any status.
    """

    def __init__(self, client: FleetClient, **conditions: Unpack[FilterFields]) -> None:
        self._client = client
        self._conditions = conditions
        self._agents: dict[str, agent_pb2.Agent] = {}
        self._indexes: dict[int, _Index] = {}
        self._position = NOWHERE
        self._heard_at: float | None = None
        self._ready = asyncio.Event()
        self._moved = asyncio.Event()
        self._watch: AgentWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal: FleetError | None = None

    async def __aenter__(self) -> Self:
        """Start the watch.

        Raises:
            RuntimeError: it runs already, or the client is closed.
        """
        if self._task is not None:
            raise RuntimeError("the catalogue runs already")
        self._watch = self._client.watch_agents(include_instances=True, **self._conditions)
        self._task = asyncio.get_running_loop().create_task(
            self._follow(self._watch), name="fleetplane-catalogue"
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the watch; what is held stays readable. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._watch is not None:
            await self._watch.aclose()

    async def ready(self, timeout: float | None = 30.0) -> None:
        """Wait until the first complete snapshot is held.

        Args:
            timeout: seconds to wait at most; None waits for as long as the plane is away.

        Raises:
            TimeoutError: the plane did not answer in time.
            FleetError: it refuses the watch.
        """
        async with asyncio.timeout(timeout):
            await self._ready.wait()
        if self._refusal is not None:
            raise self._refusal

    async def reached(self, revision: int, timeout: float | None = 30.0) -> None:
        """Wait until the copy has seen a revision, such as that of a write just made.

        Args:
            revision: of the present history.
            timeout: seconds to wait at most; None waits for as long as the plane is away.

        Raises:
            TimeoutError: it did not arrive in time.
            FleetError: the plane refuses the watch.
        """
        async with asyncio.timeout(timeout):
            while self._position.revision < revision:
                if self._refusal is not None:
                    raise self._refusal
                await self._moved.wait()

    @property
    def position(self) -> Position:
        """Up to which revision the copy is complete."""
        return self._position

    @property
    def age(self) -> float:
        """Seconds since the plane was last heard; infinite before the first time.

        Grows to at most 15 s or so while the plane is there, because it speaks at least that often.
        """
        return float("inf") if self._heard_at is None else time.monotonic() - self._heard_at

    def __len__(self) -> int:
        return len(self._agents)

    def get(self, agent_id: str) -> agent_pb2.Agent | None:
        """Return one agent with its instances, or None."""
        return self._agents.get(agent_id)

    def discover(
        self,
        *,
        capabilities: str | Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        statuses: Iterable[AgentStatus] = ACTIVE_ONLY,
        name: str = "",
        owner: str = "",
        model: str = "",
        tool: str = "",
    ) -> list[agent_pb2.Agent]:
        """Return the agents that satisfy all conditions, ordered by agent_id.

        The messages are the catalogue's own: read them, do not change them.

        Args:
            capabilities: has all of them.
            tags: carries all of them with these values.
            statuses: is in one of them; by default ACTIVE.
            name: has this name.
            owner: belongs to this owner.
            model: was built for this model.
            tool: may call this tool.
        """
        keys = [("capability", one) for one in one_of(capabilities)]
        wanted: list[tuple[str, ...]] = list(keys)
        if tags:
            wanted.extend(("tag", key, value) for key, value in tags.items())
        if name:
            wanted.append(("name", name))
        if owner:
            wanted.append(("owner", owner))
        if model:
            wanted.append(("model", model))
        if tool:
            wanted.append(("tool", tool))
        found: list[str] = []
        for status in statuses:
            index = self._indexes.get(status)
            if index is not None:
                found.extend(_intersection(index, wanted))
        found.sort()
        agents = self._agents
        return [agents[agent_id] for agent_id in found]

    async def _follow(self, watch: AgentWatch) -> None:
        try:
            async for event in watch:
                self._apply(event)
        except FleetError as error:
            _log.warning("the catalogue's watch was refused: %s", error)
            self._refusal = error
            self._ready.set()
            self._moved.set()

    def _apply(self, event: AgentsEvent) -> None:
        self._heard_at = time.monotonic()
        self._position = event.position
        if isinstance(event, AgentsSnapshot):
            self._agents = {}
            self._indexes = {}
            for agent in event.agents:
                self._put(agent)
            self._ready.set()
        elif isinstance(event, AgentsChanged):
            for agent in event.agents:
                self._remove(agent.agent_id)
                self._put(agent)
            for agent_id in event.removed_agent_ids:
                self._remove(agent_id)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _put(self, agent: agent_pb2.Agent) -> None:
        self._agents[agent.agent_id] = agent
        index = self._indexes.setdefault(agent.status, {})
        for key in _keys(agent):
            index.setdefault(key, set()).add(agent.agent_id)

    def _remove(self, agent_id: str) -> None:
        agent = self._agents.pop(agent_id, None)
        if agent is None:
            return
        index = self._indexes[agent.status]
        for key in _keys(agent):
            holders = index[key]
            holders.discard(agent_id)
            if not holders:
                del index[key]


def _intersection(index: _Index, wanted: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Return who is listed under all keys, starting from the shortest list."""
    if len(wanted) == 1:
        return index.get(wanted[0], _EMPTY)
    if not wanted:
        return index.get((), _EMPTY)
    holders = [index.get(key, _EMPTY) for key in wanted]
    holders.sort(key=len)
    return holders[0].intersection(*holders[1:])
