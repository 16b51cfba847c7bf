"""A replica that the watch of policies is served from, and the process that follows it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from controlplane.api.convert.policy_watch import policy_event_to_proto
from controlplane.domain.policy_sets.candidates import (
    STAGE_KEY,
    PolicyCandidate,
    PolicyStage,
    StageKind,
)
from controlplane.services.policies.policy_watch import PolicyEvent, PolicyWatches, WatchedAgent
from controlplane.services.ports import Collection, Position, Record, Touched
from fleetplane._policy_copy import PolicyCopy
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import Policy
from tests.fakes.clock import FakeClock
from tests.fakes.registered import Replica, an_agent

NS = "default"


class PolicyWorld:
    """One replica; every write is one commit that watchers hear of."""

    def __init__(self) -> None:
        self.replica = Replica(NS)
        self.clock = FakeClock()
        self.watches = PolicyWatches(self.replica.read_model, self.replica.hub, self.clock)

    def put(self, *policies: Policy) -> None:
        """Write policies."""
        self.replica.revision += 1
        revision = self.replica.revision
        self._commit(
            Touched(
                Collection.POLICIES,
                one.policy_id,
                Record(one.policy_id, one, revision, revision, 0, 0),
            )
            for one in policies
        )

    def remove(self, *policy_ids: str) -> None:
        """Delete policies."""
        self.replica.revision += 1
        self._commit(Touched(Collection.POLICIES, one, None) for one in policy_ids)

    def stage(self, candidate: PolicyCandidate, *, percent: int) -> None:
        """Have a candidate decide for a share of the agents."""
        stage = PolicyStage(
            stage_id="s-1",
            kind=StageKind.PERCENT,
            candidate_id=candidate.candidate_id,
            percent=percent,
        )
        self.replica.revision += 1
        revision = self.replica.revision
        self._commit(
            Touched(collection, key, Record(key, value, revision, revision, 0, 0))
            for collection, key, value in (
                (Collection.POLICY_CANDIDATES, candidate.candidate_id, candidate),
                (Collection.POLICY_STAGES, STAGE_KEY, stage),
            )
        )

    def unstage(self) -> None:
        """Have the live policies decide for everybody again."""
        self.replica.revision += 1
        self._commit((Touched(Collection.POLICY_STAGES, STAGE_KEY, None),))

    def register(self, agent_id: str, **spec: Any) -> None:
        """Register an agent, or change what it declares."""
        self.replica.write(an_agent(agent_id, **spec))

    def unregister(self, agent_id: str) -> None:
        """Remove an agent."""
        self.replica.delete(Collection.AGENTS, agent_id)

    def _commit(self, touched: Any) -> None:
        self.replica.read_model.patch(NS, list(touched), self.replica.position)


class Follower:
    """What an agent's process does with what it is sent."""

    def __init__(
        self, world: PolicyWorld, agent_ids: Sequence[str], copy: PolicyCopy | None = None
    ) -> None:
        self.copy = copy or PolicyCopy()
        self.position = Position()
        self.messages: list[pb.WatchPoliciesResponse] = []
        """Those of the last step."""
        self.raw: list[bytes] = []
        self._world = world
        self._agent_ids = agent_ids

    def open(self, **options: Any) -> None:
        """Open a stream with what is held."""
        asked = [
            WatchedAgent(one.agent_id, one.held_facts_digest, one.held_set_id)
            for one in self.copy.wanted(self._agent_ids)
        ]
        self.stream = self._world.watches.events(NS, asked, **options)

    async def step(self) -> PolicyEvent:
        """Read up to the next message that completes something, or a bookmark, and apply it."""
        self.messages, self.raw = [], []
        while True:
            async with asyncio.timeout(5):
                event = await anext(self.stream)
            raw = policy_event_to_proto(event)
            message = pb.WatchPoliciesResponse.FromString(raw)
            self.raw.append(raw)
            self.messages.append(message)
            if message.bookmark:
                return event
            if message.complete:
                self.copy = self.copy.after(self.messages)
                self.position = event.position
                return event

    @property
    def sent_policies(self) -> set[str]:
        """Ids of the policies in the messages of the last step."""
        return {
            one.policy.policy_id
            for message in self.messages
            for part in message.sets
            for one in part.policies
        }

    @property
    def sent_facts(self) -> set[str]:
        """Agents whose facts are in the messages of the last step."""
        return {
            one.agent_id
            for message in self.messages
            for one in message.agents
            if one.HasField("facts")
        }
