"""What runs while something is broken: writers whose every acknowledgement is remembered, and a
watch that sees every status that an agent is ever given."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fleetplane import (
    Agent,
    AgentStatus,
    DeadlineExceeded,
    FleetClient,
    Scope,
    Unavailable,
)
from tests.fakes.eventually import eventually

PAUSE_SECONDS: Final = 0.02
"""Between two writes of one writer: some hundred writes a second in all, on two shared cores."""

ATTEMPT_SECONDS: Final = 8.0
"""Deadline of one write with the SDK's own retries, all under one request_id."""

KEPT: Final = 1000
"""Changes that the history of a layer keeps, by contract; writers stop before they exceed it."""


class Writers:
    """Each writes 1, 2, 3, ... to a layer of its own, through one of the clients in turn."""

    def __init__(self, clients: Sequence[FleetClient], writers: int = 8) -> None:
        self._clients = clients
        self.scopes = tuple(Scope(agent_name=f"layer-{i}") for i in range(writers))
        self.acknowledged: dict[Scope, list[int]] = {scope: [] for scope in self.scopes}
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = 0
        """Writes that nobody answered, over all retries. They may have happened."""

    @property
    def count(self) -> int:
        """Acknowledged writes in all."""
        return sum(map(len, self.acknowledged.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Writers"]:
        """Write until the block ends, or until `finish`."""
        tasks = [
            asyncio.create_task(self._write(self._clients[index % len(self._clients)], scope))
            for index, scope in enumerate(self.scopes)
        ]
        self._tasks = tasks
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Let the writes that are under way finish, and make no more."""
        self._stop.set()
        async with asyncio.timeout(2 * ATTEMPT_SECONDS):
            await asyncio.gather(*self._tasks)

    async def _write(self, client: FleetClient, scope: Scope) -> None:
        value = 0
        while not self._stop.is_set() and value < KEPT:
            value += 1
            try:
                await client.update_config(
                    {"extra.value": value}, scope=scope, timeout=ATTEMPT_SECONDS
                )
            except (Unavailable, DeadlineExceeded):
                self.failed += 1
            else:
                self.acknowledged[scope].append(value)
            await asyncio.sleep(PAUSE_SECONDS)

    async def more(self, writes: int) -> None:
        """Return when so many more writes were acknowledged, so that a fault meets real load."""
        goal = self.count + writes
        await eventually(f"{writes} more writes are acknowledged", lambda: self.count >= goal)

    async def verify(self, client: FleetClient) -> None:
        """Check the history of every layer: no acknowledged write is missing, none is doubled."""
        for scope, acknowledged in self.acknowledged.items():
            history = [
                round(layer.values.fields["extra.value"].number_value)
                async for layer in client.list_config_revisions(scope)
            ]
            history.reverse()
            assert history == sorted(set(history)), f"{scope}: out of order or twice: {history}"
            missing = set(acknowledged) - set(history)
            assert not missing, f"{scope}: acknowledged and lost: {sorted(missing)}"
            extra = len(history) - len(acknowledged)
            assert extra <= self.failed, f"{scope}: {extra} writes that nobody made"


class Statuses:
    """Every status that each agent of a namespace is seen in, through one watch."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client
        self.seen: dict[str, list[AgentStatus]] = {}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Statuses"]:
        task = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        async with self._client.watch_agents() as events:
            async for event in events:
                for agent in getattr(event, "agents", ()):
                    seen = self.seen.setdefault(agent.agent_id, [])
                    status = AgentStatus(agent.status)
                    if seen[-1:] != [status]:
                        seen.append(status)

    def all_active(self, agents: int) -> bool:
        """Whether so many agents are known, and all are ACTIVE."""
        return len(self.seen) == agents and all(
            seen[-1] is AgentStatus.ACTIVE for seen in self.seen.values()
        )

    def assert_nobody_was_ever_silent(self) -> None:
        """Check that no agent was called DEGRADED or INACTIVE at any time."""
        wrong = {AgentStatus.DEGRADED, AgentStatus.INACTIVE}
        doubted = {k: v for k, v in self.seen.items() if wrong.intersection(v)}
        assert not doubted, f"falsely given up: {doubted}"


@asynccontextmanager
async def crew(client: FleetClient, size: int) -> AsyncIterator[list[Agent]]:
    """Have agents alive in this process, over one heartbeat stream."""
    agents = [
        Agent(f"worker-{i}", "1.0.0", client=client, capabilities=["work"]) for i in range(size)
    ]
    try:
        await asyncio.gather(*(agent.__aenter__() for agent in agents))
        yield agents
    finally:
        await asyncio.gather(*(agent.aclose() for agent in agents))
