"""A plane whose decisions are recorded, flushed when the test says so."""

from collections.abc import Awaitable, Sequence
from typing import Any

from controlplane.domain.decisions.records import DecisionGap, DecisionRecord
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.policies import Policy
from controlplane.domain.policy_settings import (
    SETTINGS_KEY,
    DecisionLogRule,
    DecisionLogSettings,
    Durability,
    PolicySettings,
)
from controlplane.services.policies.answers import Answered, Question
from controlplane.services.policies.decision_history import content_of
from controlplane.services.policies.decision_log_port import DecisionBatch, DecisionLog
from controlplane.services.policies.decision_packing import Columns, record_of
from controlplane.services.policies.decisions import Asked, DecisionIds, Decisions
from controlplane.services.policies.recorded_decisions import RecordedDecisions
from controlplane.services.policies.recorder import Recorder
from controlplane.services.ports import Collection, Put
from controlplane.storage.memory import MemoryDecisionLog
from controlplane.tasks.decision_flusher import DecisionFlusher
from tests.fakes.plane import NS, Plane
from tests.fakes.transactions import transaction

ADA = Caller(name="ada")
FOREVER_MS = 10**12


class FlakyLog:
    """A log whose store can be away; it may take a batch and still not say so."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log
        self.away = False
        self.takes_silently = False
        self.attempts = 0

    async def append(self, namespace: str, batch: DecisionBatch, **options: Any) -> bool:
        self.attempts += 1
        if self.takes_silently:
            await self._log.append(namespace, batch, **options)
        if self.away:
            raise StoreUnavailable
        return await self._log.append(namespace, batch, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class DecisionWorld:
    """Agent, policies, recorder, flusher, log. `asks` decides; `flush` carries to the log."""

    def __init__(self, **bounds: int) -> None:
        self.plane = Plane()
        self.clock = self.plane.clock
        self.log = FlakyLog(MemoryDecisionLog(self.plane.store))
        self.agent_id = ""
        self.replica(**bounds)

    def replica(self, **bounds: int) -> None:
        """Be another process on the same store."""
        ids = DecisionIds()
        self.recorder = Recorder(ids.source, **bounds)
        self.decisions = Decisions(
            self.plane.read_model, self.clock, recorder=self.recorder, ids=ids
        )
        self.flusher = DecisionFlusher(
            self.recorder,
            self.log,
            self.plane.read_model,
            self.clock,
            keep_ms=FOREVER_MS,
            max_bytes=FOREVER_MS,
        )
        self.recorded = RecordedDecisions(self.log, self.clock)

    async def start(self, *policies: Policy, **settings: Any) -> "DecisionWorld":
        """Register an agent, write policies, set how decisions are recorded."""
        self.agent_id = (await self.plane.register(tags={"team": "red"})).agent.agent_id
        for policy in policies:
            await self.plane.policies.create(
                NS, policy, reason="", request=None, dry_run=False, caller=ADA
            )
        if settings:
            await self.set(**settings)
        await self.plane.follow()
        return self

    async def set(self, *, masked: Sequence[str] = (), **durabilities: str) -> None:
        """Set masked paths and, by action, `SYNC`, `ASYNC` or a share such as `0.5`."""
        rules = tuple(_rule(action, text) for action, text in durabilities.items())
        log = DecisionLogSettings(rules=rules, masked_paths=tuple(masked))
        settings = PolicySettings(decision_log=log)
        await self.plane.ledger.commit(
            transaction(Put(Collection.POLICY_SETTINGS, SETTINGS_KEY, settings), namespace=NS)
        )
        await self.plane.follow()

    def asks(self, action: str = "read", *, dry_run: bool = False, **claims: Any) -> Answered:
        """Decide one action of the agent."""
        question = Question(self.agent_id, action, claims, session_id="s-1")
        return self.decisions.evaluate(NS, question, asked=Asked("ada", 100, dry_run))

    async def flush(self) -> None:
        """Carry everything to the log, gaps included."""
        for namespace in tuple(self.recorder.queues):
            await self.flusher.flush(namespace, at_once=True)

    async def contents(self, namespace: str = NS) -> list[DecisionRecord | DecisionGap]:
        """Return everything in the log, oldest first."""
        found: list[DecisionRecord | DecisionGap] = []
        for stored in reversed(await self.log.newest(namespace, limit=100_000)):
            content = content_of(stored.batch)
            if isinstance(content, Columns):
                rows = range(len(content.decision_id))
                found += [record_of(content, row) for row in rows]
            elif content is not None:
                found.append(content)
        return found

    async def records(self, namespace: str = NS) -> list[DecisionRecord]:
        """Return the decisions in the log, oldest first."""
        return [one for one in await self.contents(namespace) if isinstance(one, DecisionRecord)]

    async def gaps(self) -> list[DecisionGap]:
        """Return the gaps in the log, oldest first."""
        return [one for one in await self.contents() if isinstance(one, DecisionGap)]


def write_of(answer: Answered) -> Awaitable[None]:
    """Return the write that an answer waits for; there is one."""
    assert answer.recorded is not None
    return answer.recorded


def _rule(action: str, text: str) -> DecisionLogRule:
    if text in Durability.__members__:
        return DecisionLogRule(actions=(action,), durability=Durability(text))
    return DecisionLogRule(
        actions=(action,), durability=Durability.SAMPLED, sample_rate=float(text)
    )
