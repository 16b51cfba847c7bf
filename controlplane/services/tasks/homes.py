"""What becomes of waiting tasks whose agents were deactivated by an operator.

A rule about the present, not about an event: whoever applies it, whenever, comes to the same end.
So a replica that dies half-way needs no successor that knows what it was doing.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.selection import AgentFilter
from controlplane.services.ports import Collection, Expect, Require
from controlplane.services.read_model import NamespaceView
from controlplane.services.tasks.waiting import Want

MAX_HELD: Final = 8
"""Stopped agents that a verdict is held to in its commit: usually there is one."""


class Fate(StrEnum):
    """What becomes of a task."""

    WAIT = "WAIT"
    """Somebody may still come."""
    FREE = "FREE"
    """Its name is dropped: another active agent has the capabilities."""
    FAIL = "FAIL"
    """Nobody is left."""


class Home(NamedTuple):
    """A verdict, with what it rests upon."""

    fate: Fate
    detail: str = ""
    """The operator's reason."""
    stopped: tuple[Agent, ...] = ()
    """Agents that could have taken it, newest decision first; some of them."""

    def requirements(self) -> tuple[Require, ...]:
        """Return the conditions under which the verdict holds."""
        return tuple(
            Require(Collection.AGENTS, agent.agent_id, Expect(revision=agent.revision))
            for agent in self.stopped
        )


WAIT: Final = Home(Fate.WAIT)


def home_of(view: NamespaceView, want: Want) -> Home:
    """Return what becomes of tasks that want this.

    They wait as long as an agent they could go to was never stopped by an operator, and also if
    there never was such an agent. If all were stopped, a task that names an agent and capabilities
    is freed of the name if another ACTIVE agent has them all; every other one fails.
    """
    if want.agent_name:
        ids: Iterable[str] = view.ids_of_name.get(want.agent_name, ())
    else:
        ids = view.index.candidates(AgentFilter(capabilities=want.capabilities)).ids
    stopped: list[Agent] = []
    for agent_id in ids:
        agent = view.agents[agent_id].agent
        if not agent.is_stopped:
            return WAIT
        stopped.append(agent)
    if not stopped:
        return WAIT
    stopped.sort(key=lambda agent: agent.revision, reverse=True)
    fate = Fate.FREE if want.agent_name and _others(view, want) else Fate.FAIL
    return Home(fate, _why(stopped[0]), tuple(islice(stopped, MAX_HELD)))


def _others(view: NamespaceView, want: Want) -> bool:
    """Whether an ACTIVE agent has all the capabilities; those of the name are all stopped."""
    if not want.capabilities:
        return False
    wanted = AgentFilter(capabilities=want.capabilities, statuses=frozenset({AgentStatus.ACTIVE}))
    return len(view.index.candidates(wanted)) > 0


def _why(agent: Agent) -> str:
    reason = f": {agent.status_reason}" if agent.status_reason else ""
    return f"agent {agent.spec.name_version} is {agent.status}{reason}"
