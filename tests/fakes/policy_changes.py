"""A plane whose policies change as sets: candidates, stages, rollbacks, on the memory store."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from controlplane.domain.decisions.records import DecisionRecord, Origin
from controlplane.domain.policies import Policy
from controlplane.domain.policy_sets.candidates import PolicyCandidate, StageKind
from controlplane.services.ids import TimeSortedIds
from controlplane.services.policies.activations import Activated, Activation, PolicyActivations
from controlplane.services.policies.answers import Answered, Question
from controlplane.services.policies.candidates import CandidateDraft, Candidates
from controlplane.services.policies.decision_log_port import DecisionBatch, StoredBatch, ms_of_place
from controlplane.services.policies.decision_packing import Columns, pack
from controlplane.services.policies.policy_tests import LiveTests, TestRuns
from controlplane.services.policies.revisions import Revisions
from controlplane.services.policies.simulation import Simulations
from controlplane.services.policies.stages import Stages
from tests.fakes.plane import CALLER, NS, Plane


class RememberedDecisions:
    """A log of decisions in memory: what `DecisionHistory` yields."""

    def __init__(self) -> None:
        self.stored: list[StoredBatch] = []

    def add(self, records: Sequence[DecisionRecord]) -> None:
        """Store some decisions as one batch."""
        packed = pack(
            Columns(
                origin=Origin.SERVER,
                caller=[record.caller for record in records],
                answers=[record.decision for record in records],
                facts=[dict(record.facts) for record in records],
                decision_id=[record.decision_id for record in records],
                at_ms=[record.at_ms for record in records],
                answer_of=list(range(len(records))),
                facts_of=list(range(len(records))),
                caller_of=list(range(len(records))),
                action=[record.action for record in records],
                tool=[record.tool for record in records],
                session_id=[record.session_id for record in records],
                claims=[record.claims for record in records],
                latency_ns=[record.latency_ns for record in records],
                policy_digest=[record.policy_digest for record in records],
                digest_of=list(range(len(records))),
                sample_rate={
                    row: record.sample_rate
                    for row, record in enumerate(records)
                    if record.sample_rate < 1
                },
                masked_paths={
                    row: record.masked_paths
                    for row, record in enumerate(records)
                    if record.masked_paths
                },
            )
        )
        times = [record.at_ms for record in records]
        self.append(
            DecisionBatch(
                source="fake",
                sequence=len(self.stored) + 1,
                count=len(records),
                first_ms=min(times),
                last_ms=max(times),
                packed=packed,
            )
        )

    def append(self, batch: DecisionBatch) -> None:
        """Store a batch."""
        self.stored.append(StoredBatch(f"{max(batch.last_ms, 1)}-{len(self.stored)}", batch))

    async def batches(
        self, namespace: str, *, before: str = "", from_ms: int = 0
    ) -> AsyncIterator[StoredBatch]:
        """Yield them, newest first."""
        assert namespace == NS
        for stored in reversed(self.stored):
            early = before and stored.at_ms >= ms_of_place(before)
            if stored.at_ms >= from_ms and not early:
                yield stored


def record_of(answered: Answered, **fields: Any) -> DecisionRecord:
    """Return an answer as the log keeps it."""
    request = answered.request
    known: dict[str, Any] = {
        "decision_id": answered.decision_id,
        "at_ms": request.now_ms,
        "action": request.action,
        "decision": answered.decision,
        "tool": request.tool,
        "claims": request.claims,
        "facts": request.facts,
    }
    return DecisionRecord(**(known | fields))


class ChangingPlane(Plane):
    """The use cases about sets of policies."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        ids = TimeSortedIds()
        self.log = RememberedDecisions()
        self.runs = TestRuns(self.clock)
        self.revisions = Revisions(self.ledger, self.read_model)
        self.simulations = Simulations(self.log, self.clock)
        self.live_tests = LiveTests(self.ledger, self.read_model, self.runs)
        self.candidates = Candidates(
            self.ledger, self.read_model, ids, self.runs, max_policies=1000
        )
        self.stages = Stages(self.ledger, self.clock, ids)
        self.activations = PolicyActivations(
            self.ledger,
            self.read_model,
            stages=self.stages,
            revisions=self.revisions,
            runs=self.runs,
            simulations=self.simulations,
            max_policies=1000,
        )

    async def create(self, *policies: Policy) -> int:
        """Add live policies; return the live revision."""
        for policy in policies:
            await self.policies.create(
                NS, policy, reason="", request=None, dry_run=False, caller=CALLER
            )
        return (await self.follow()).policy_set.revision

    async def candidate(self, *put: Policy, **draft: Any) -> PolicyCandidate:
        """Write a candidate."""
        shown = await self.candidates.create(NS, CandidateDraft(put=put, **draft), caller=CALLER)
        await self.follow()
        return shown.candidate

    async def activate(self, candidate_id: str, **wanted: Any) -> Activated:
        """Activate a candidate, for all unless it says otherwise."""
        done = await self.activations.activate(
            NS, Activation(candidate_id=candidate_id, **wanted), caller=CALLER
        )
        await self.follow()
        return done

    async def percent(self, candidate_id: str, percent: int) -> Activated:
        """Let a candidate decide for a share of the agents."""
        return await self.activate(candidate_id, stage=StageKind.PERCENT, percent=percent)

    async def rollback(self, to_revision: int, **wanted: Any) -> Activated:
        """Restore an older revision."""
        stated: dict[str, Any] = {
            "expected_revision": None,
            "reason": "it hurt",
            "request": None,
            "dry_run": False,
        }
        done = await self.activations.rollback(NS, to_revision, caller=CALLER, **(stated | wanted))
        await self.follow()
        return done

    def ask(self, agent_id: str, action: str, **claims: Any) -> Answered:
        """Ask for a decision."""
        question = Question(agent_id=agent_id, action=action, claims=claims)
        return self.decisions.evaluate(NS, question)
