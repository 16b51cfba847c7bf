"""What is known about the agents of a demo, and what happens to them."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fleetplane import AgentsChanged, AgentsEvent, AgentsSnapshot, AgentStatus
from fleetplane.v1 import agent_pb2

REMEMBERED: Final = 12
"""Happenings that the live view shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something worth a line."""

    event: str
    """What, for programs: `daemon`, `started`, `transition`, `killed`, `restarted`, ..."""
    text: str
    """What, for people."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Everything variable in the text."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it was seen here."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"event": self.event, "at": self.at.isoformat(), **self.details}


class Board:
    """The agents of a demo as the plane sees them.

    Args:
        names: whose; agents of earlier demos are ignored.
        on_happening: called with everything worth a line.
    """

    def __init__(self, names: Iterable[str], on_happening: Callable[[Happening], None]) -> None:
        self.agents: dict[str, agent_pb2.Agent] = {}
        """By name, with their instances."""
        self.names = frozenset(names)
        """Everybody who should be there."""
        self.happenings: deque[Happening] = deque(maxlen=REMEMBERED)
        """The newest, oldest first."""
        self.counts: Counter[str] = Counter()
        """How often each kind of happening was seen, and each change as `ACTIVE->DEGRADED`."""
        self.started = time.monotonic()
        """When the demo began, on this machine's monotonic clock."""
        self._on_happening = on_happening
        self._changed = asyncio.Condition()

    def tell(self, event: str, text: str, **details: Any) -> None:
        """Note that something happened."""
        happening = Happening(event=event, text=text, details=details)
        self.counts[event] += 1
        self.happenings.append(happening)
        self._on_happening(happening)

    async def apply(self, event: AgentsEvent) -> None:
        """Take in what the watch says: changes of status are worth a line."""
        if not isinstance(event, AgentsSnapshot | AgentsChanged):
            return
        async with self._changed:
            for agent in event.agents:
                self._take(agent)
            self._changed.notify_all()

    def refresh(self, agents: Iterable[agent_pb2.Agent]) -> None:
        """Take in newer loads; what the watch has not said yet waits for the watch."""
        for agent in agents:
            known = self.agents.get(agent.spec.name)
            if known is not None and known.status == agent.status:
                self.agents[agent.spec.name] = agent

    def _take(self, agent: agent_pb2.Agent) -> None:
        name = agent.spec.name
        if name not in self.names:
            return
        before = self.agents.get(name)
        self.agents[name] = agent
        if before is None or before.status == agent.status:
            return
        was, now = AgentStatus(before.status).name, AgentStatus(agent.status).name
        self.counts[f"{was}->{now}"] += 1
        why = f" ({agent.status_reason})" if agent.status_reason else ""
        self.tell(
            "transition",
            f"{name}: {was} -> {now}{why}",
            name=name,
            agent_id=agent.agent_id,
            before=was,
            after=now,
            reason=agent.status_reason,
        )

    def in_status(self, status: AgentStatus) -> int:
        """Return how many agents are in a status."""
        return sum(AgentStatus(one.status) is status for one in self.agents.values())

    async def until(self, status: AgentStatus, names: Iterable[str], limit: float) -> bool:
        """Wait until all of these agents are in a status; False if that took too long.

        Args:
            status: which.
            names: whose.
            limit: seconds to wait at most.
        """
        wanted = frozenset(names)

        def arrived() -> bool:
            return all(
                name in self.agents and AgentStatus(self.agents[name].status) is status
                for name in wanted
            )

        try:
            async with asyncio.timeout(limit), self._changed:
                await self._changed.wait_for(arrived)
        except TimeoutError:
            return False
        return True
