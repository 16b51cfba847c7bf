"""The shadow: what a staged candidate would have decided, compared with what was decided.

Decisions are heard of when they are recorded, after they were answered. They wait in a bounded
queue and are judged outside of the event loop; what does not fit is counted and not judged. The
comparison is that of one replica, about the decisions that it answered, since the stage began or it
started; a simulation over the time of the stage covers all replicas.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from controlplane.domain.decisions.records import DecisionRecord
from controlplane.domain.policies import OnError, PolicySet
from controlplane.domain.policy_sets.candidates import PolicyStage, StageKind
from controlplane.domain.policy_sets.replay import Judge, ReplayReport
from controlplane.services.read_model import NamespaceView, ReadModel

WAITING: Final = 20_000
"""Decisions that wait to be compared, all namespaces together: some 30 MB, a second's work."""

AT_ONCE: Final = 2_000
"""Decisions judged in one go of the thread."""


@dataclass(slots=True)
class ShadowReport:
    """What this replica compared."""

    stage_id: str
    report: ReplayReport = field(default_factory=ReplayReport)
    dropped: int = 0
    """Decisions that were not compared, because too many waited."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A judge, and the set that it was made from: it keeps that set's identity taken."""

    of: PolicySet
    judge: Judge


class Shadow:
    """Compares; one per replica."""

    def __init__(self, read_model: ReadModel, *, waiting: int = WAITING) -> None:
        self._read_model = read_model
        self._most = waiting
        self._waiting: deque[tuple[str, str, DecisionRecord]] = deque()
        """Namespace, stage, decision."""
        self._reports: dict[str, ShadowReport] = {}
        self._judges: dict[str, _Compiled] = {}
        self.heard = asyncio.Event()
        """Set while something waits."""

    def wants(self, namespace: str) -> bool:
        """Whether decisions of a namespace are compared now."""
        return _shadow_of(self._read_model.view(namespace)) is not None

    def listen(self, namespace: str, records: Sequence[DecisionRecord]) -> None:
        """Take decisions that were recorded; see `recorder.Listener`."""
        stage = _shadow_of(self._read_model.view(namespace))
        if stage is None:  # what an earlier one left is not kept in memory for ever
            self._reports.pop(namespace, None)
            self._judges.pop(namespace, None)
            return
        room = max(self._most - len(self._waiting), 0)
        self._report(namespace, stage).dropped += max(len(records) - room, 0)
        self._waiting.extend((namespace, stage.stage_id, one) for one in records[:room])
        self.heard.set()

    def report_of(self, namespace: str, stage: PolicyStage) -> ShadowReport:
        """Return what was compared of a stage so far; nothing if this replica heard nothing."""
        known = self._reports.get(namespace)
        if known is None or known.stage_id != stage.stage_id:
            return ShadowReport(stage.stage_id)
        return known

    async def compare(self) -> int:
        """Compare some of what waits; return how many decisions that was."""
        chunk = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        if not self._waiting:
            self.heard.clear()
        by_stage: dict[tuple[str, str], list[DecisionRecord]] = {}
        for namespace, stage_id, record in chunk:
            by_stage.setdefault((namespace, stage_id), []).append(record)
        for (namespace, stage_id), records in by_stage.items():
            view = self._read_model.view(namespace)
            stage = _shadow_of(view)
            if stage is None or stage.stage_id != stage_id or view.staged_set is None:
                continue  # it has ended
            judge = await self._judge(namespace, view.staged_set)
            await asyncio.to_thread(judge.judge, records, self._report(namespace, stage).report)
        return len(chunk)

    def _report(self, namespace: str, stage: PolicyStage) -> ShadowReport:
        known = self._reports.get(namespace)
        if known is None or known.stage_id != stage.stage_id:
            known = self._reports[namespace] = ShadowReport(stage.stage_id)
        return known

    async def _judge(self, namespace: str, rules: PolicySet) -> Judge:
        known = self._judges.get(namespace)
        if known is None or known.of is not rules:
            compiled = await asyncio.to_thread(_own, rules)
            known = self._judges[namespace] = _Compiled(rules, Judge(compiled))
        return known.judge


def _shadow_of(view: NamespaceView) -> PolicyStage | None:
    stage = view.stage
    return stage if stage is not None and stage.kind is StageKind.SHADOW else None


def _own(rules: PolicySet) -> PolicySet:
    """Compile a set anew: sets remember what they decided, and threads do not share them."""
    return PolicySet.compile(
        rules.policies,
        revision=rules.revision,
        default_effect=rules.default_effect,
        on_missing=rules.on_missing,
        on_error=OnError.QUARANTINE,
    )
