"""What every move of an agent by decision is made with: its record as the ledger has it."""

from typing import Final

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.errors import (
    AgentNotFound,
    InvalidTransition,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.services.families import caught_up
from controlplane.services.ports import (
    Collection,
    Committed,
    ConditionFailed,
    Ledger,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported; each loses only to a commit that
won."""


class AgentRecords:
    """Reads agents from the ledger and commits what becomes of them."""

    def __init__(self, ledger: Ledger, read_model: ReadModel) -> None:
        self._ledger = ledger
        self._read_model = read_model

    async def stored(self, namespace: str, agent_id: str) -> Agent:
        """Return an agent as the ledger has it.

        Raises:
            AgentNotFound: there is none.
        """
        (record,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        if record is None:
            raise AgentNotFound(agent_id)
        agent: Agent = record.value
        return agent

    async def is_replay(self, namespace: str, request: RequestKey | None) -> bool:
        """Return whether a request was carried out before."""
        if request is None:
            return False
        return await self._ledger.find_request(namespace, request) is not None

    async def committed(self, namespace: str, transaction: Transaction) -> Committed | None:
        """Commit; None if a condition failed, once this replica has heard of what it names."""
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed as failure:
            await caught_up(self._read_model, namespace, failure.current_revision)
            return None


def require_revision(agent: Agent, expected: int) -> None:
    """Check that an agent is as the caller has seen it.

    Raises:
        RevisionConflict: it is not.
    """
    if expected not in {0, agent.revision}:
        raise RevisionConflict(
            f"agent {agent.agent_id!r}", expected=expected, current=agent.revision
        )


def no_such_move(agent: Agent, wanted: AgentStatus) -> InvalidTransition:
    """Return the refusal of a move that the lifecycle does not have."""
    return InvalidTransition(f"agent {agent.agent_id!r}", current=agent.status, wanted=wanted)


def contended() -> StoreUnavailable:
    """Return the refusal of who lost too often."""
    return StoreUnavailable("too many callers change this agent at once")
