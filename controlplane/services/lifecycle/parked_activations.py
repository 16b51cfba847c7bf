"""Which parked activations there is something to do about, in one namespace at a time."""

from collections.abc import Iterator

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.approvals.model import ApprovalState
from controlplane.domain.errors import LimitExceeded
from controlplane.services.lifecycle.activating import Activating
from controlplane.services.lifecycle.activation_approvals import (
    answer_to,
    refused_reason,
)
from controlplane.services.ports import Clock, Collection
from controlplane.services.read_model import NamespaceView, ReadModel

RETRY_SECONDS = 5.0
"""Pause before an agent is looked at again for which nothing could be done: it has too many
approvals open, or its grant cannot be used yet."""


class ParkedActivations:
    """Carries parked activations on. Every replica may: each step is a commit on a condition."""

    def __init__(self, activating: Activating, read_model: ReadModel, clock: Clock) -> None:
        self._activating = activating
        self._read_model = read_model
        self._clock = clock
        self._idle: dict[str, tuple[int, int]] = {}
        """namespace -> (revision of its agents, version of its approvals) without work"""
        self._tried: dict[tuple[str, str], float] = {}
        """(namespace, agent_id) -> when it was looked at, in seconds of `monotonic`"""

    async def tick(self, namespace: str) -> int:
        """Look at every parked activation that waits for nobody; return how many those are.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        view = self._read_model.view(namespace)
        state = (view.agents_revision, view.governance.version(Collection.APPROVALS))
        if self._idle.get(namespace) == state:
            return 0
        found = list(_to_settle(view))
        if not found:
            self._idle[namespace] = state
        now = self._clock.monotonic()
        self._tried = {key: at for key, at in self._tried.items() if now - at < RETRY_SECONDS}
        due = [one for one in found if (namespace, one.agent_id) not in self._tried]
        for agent in due:
            self._tried[namespace, agent.agent_id] = now
            try:
                await self._activating.settle(namespace, agent.agent_id)
            except LimitExceeded:
                continue
        return len(due)


def _to_settle(view: NamespaceView) -> Iterator[Agent]:
    """Yield the agents whose activation is parked, and not waiting for people."""
    for entry in view.agents.values():
        agent = entry.agent
        pending = agent.pending
        if pending is None:
            continue
        approval = answer_to(view, pending)
        if approval is None:
            if not pending.approval_id:
                yield agent
        elif approval.state in {ApprovalState.GRANTED, ApprovalState.SUPERSEDED} or (
            approval.state is not ApprovalState.PENDING
            and agent.status is AgentStatus.REGISTERED
            and agent.status_reason != refused_reason(approval)
        ):
            yield agent
