"""Records who has used what, and what came of it.

A batch is one commit: records of units on condition that they are as they were read, and what they
add to the counters. So a report counts once, whoever repeats it, and the counters always are what
the records say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.domain.access.refusals import ForeignAgent
from controlplane.domain.errors import (
    DomainError,
    InvalidArgument,
    InvalidTransition,
    StoreUnavailable,
)
from controlplane.domain.experiments.counters import Counters, Deltas
from controlplane.domain.experiments.dealing import is_for, own_variant
from controlplane.domain.experiments.model import (
    Exclusion,
    Experiment,
    ExperimentState,
    Exposure,
    Phase,
    UnitKind,
    unit_key,
    units_history,
)
from controlplane.domain.experiments.recording import (
    Came,
    Recorded,
    Seen,
    Step,
    conclude,
    expose,
)
from controlplane.domain.experiments.refusals import NotExposed
from controlplane.domain.experiments.validation import MAX_UNITS, check_digest, check_unit
from controlplane.domain.identity import Caller
from controlplane.services.experiments.store import audit_of, stored
from controlplane.services.ports import (
    Append,
    Clock,
    Collection,
    ConditionFailed,
    Count,
    Expect,
    Ledger,
    Put,
    Require,
    Transaction,
)
from controlplane.services.ports import Step as LedgerStep

MAX_BATCH: Final = 500
"""Reports of one call, by contract: one commit of some milliseconds."""

MAX_ROUNDS: Final = 8
"""Rounds of read-decide-commit before contention is reported; each loses to a commit that won."""

HISTORY_KEPT: Final = MAX_UNITS * 2
"""Batches listed per experiment: more than can make a record, so that no unit is ever lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One report of a batch, and by which phase its unit was dealt."""

    report: Seen | Came
    phase: int = 0
    """0: the present one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one report."""

    recorded: Recorded
    exclusion: Exclusion = Exclusion.NONE


Results = list[Result | DomainError]
"""In the order of the reports; an error is what the single call would have raised."""

_IGNORED: Final = Result(recorded=Recorded.IGNORED)


class Recorder:
    """Records exposures and outcomes."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        """Commit to `ledger`; callers do not wait until this replica has seen it."""
        self._ledger = ledger
        self._clock = clock

    async def record(
        self, namespace: str, key: str, entries: Sequence[Entry], *, caller: Caller
    ) -> Results:
        """Record up to 500 reports of one experiment, all exposures or all outcomes.

        Raises:
            InvalidArgument: no reports, or too many.
            ExperimentNotFound: there is none.
            InvalidTransition: it was never started, or takes no exposures any more.
            StoreUnavailable: too many callers report the same units at once.
        """
        if not 1 <= len(entries) <= MAX_BATCH:
            raise InvalidArgument.of("entries", f"must have 1 - {MAX_BATCH} entries")
        for _ in range(MAX_ROUNDS):
            experiment = await stored(self._ledger, namespace, key)
            phase = _open_phase(experiment, entries)
            batch = _Batch(experiment, phase, caller, self._clock.store_ms())
            await batch.read(self._ledger, namespace, entries)
            results = [batch.take(entry) for entry in entries]
            steps = batch.steps()
            if not steps:
                return results
            audit = audit_of(
                key,
                method="RecordExposure" if batch.exposes else "RecordOutcome",
                event="recorded",
                actor=caller.name,
                phase=str(phase.number),
                reports=str(len(entries)),
            )
            try:
                await self._ledger.commit(
                    Transaction(namespace=namespace, steps=steps, audit=audit)
                )
            except ConditionFailed:
                continue
            return results
        raise StoreUnavailable("too many callers report these units at once")


def _open_phase(experiment: Experiment, entries: Sequence[Entry]) -> Phase:
    phase = experiment.phase
    exposes = any(isinstance(entry.report, Seen) for entry in entries)
    closed = experiment.state is ExperimentState.STOPPED and exposes
    if phase is None or closed:
        raise InvalidTransition(
            f"experiment {experiment.key!r}",
            current=experiment.state,
            wanted="given exposures" if exposes else "given outcomes",
        )
    return phase


class _Batch:
    """One round: what was read, what the reports make of it."""

    def __init__(self, experiment: Experiment, phase: Phase, caller: Caller, now_ms: int) -> None:
        self._experiment = experiment
        self._phase = phase
        self._caller = caller
        self._now_ms = now_ms
        self._counters = Counters(experiment.key, phase.number)
        self._deltas: Deltas = {}
        self._read: dict[str, Exposure | None] = {}
        self._now: dict[str, Exposure] = {}
        self._earlier: set[str] = set()
        self._room = 0
        """Units that may still be recorded."""
        self.exposes = False

    async def read(self, ledger: Ledger, namespace: str, entries: Sequence[Entry]) -> None:
        """Read what is recorded of the units, in this phase and, if it matters, before."""
        self.exposes = any(isinstance(entry.report, Seen) for entry in entries)
        units = list(dict.fromkeys(entry.report.unit for entry in entries))
        key, number = self._experiment.key, self._phase.number
        wanted = [unit_key(key, number, unit) for unit in units]
        records = await ledger.read(namespace, Collection.EXPOSURES, wanted)
        for unit, record in zip(units, records, strict=True):
            self._read[unit] = None if record is None else record.value
        fresh = [unit for unit in units if self._read[unit] is None]
        if not self.exposes or not fresh:
            return
        if self._phase.exclude_exposed and number > 1:
            before = [unit_key(key, n, unit) for n in range(1, number) for unit in fresh]
            found = await ledger.read(namespace, Collection.EXPOSURES, before)
            self._earlier = {one.value.unit for one in found if one is not None}
        names = [self._counters.exposed(one.name) for one in self._phase.variants]
        names += [self._counters.excluded(why) for why in Exclusion if why]
        held = sum(await ledger.read_counts(namespace, names))
        self._room = max(0, self._experiment.plan.max_units - held)

    def take(self, entry: Entry) -> Result | DomainError:
        """Apply one report; return what became of it."""
        report = entry.report
        try:
            check_unit(report.unit)
            step = (
                self._seen(entry, report) if isinstance(report, Seen) else self._came(entry, report)
            )
        except DomainError as refusal:
            return refusal
        if step is None:
            return _IGNORED
        unit = report.unit
        if step.record is not self._known(unit):
            self._now[unit] = step.record
        return Result(recorded=step.recorded, exclusion=step.record.excluded)

    def _known(self, unit: str) -> Exposure | None:
        return self._now.get(unit) or self._read[unit]

    def _is_of_now(self, entry: Entry) -> bool:
        """Return whether a report is about the present phase.

        Raises:
            InvalidArgument: there is no such phase yet.
        """
        if entry.phase > self._phase.number:
            raise InvalidArgument.of("phase", f"the present one is {self._phase.number}")
        return entry.phase in {0, self._phase.number}

    def _seen(self, entry: Entry, seen: Seen) -> Step | None:
        check_digest(seen.digest)
        agent = self._caller.agent
        if agent is not None and not is_for(self._experiment, agent.agent_name):
            raise ForeignAgent(agent.agent_name, "key")
        by_agent = self._experiment.unit is UnitKind.AGENT
        if agent is not None and by_agent and seen.unit != agent.agent_name:
            raise ForeignAgent(agent.agent_name, "unit")
        if not self._is_of_now(entry):
            return None
        if self._phase.variant(seen.variant) is None:
            raise InvalidArgument.of("variant", f"there is no variant {seen.variant!r}")
        known = self._known(seen.unit)
        if known is None:
            if not self._room:
                return None
            self._room -= 1
        return expose(
            known,
            seen,
            own=own_variant(self._experiment.key, self._phase, seen.unit),
            earlier=lambda: seen.unit in self._earlier,
            now_ms=self._now_ms,
            counters=self._counters,
            deltas=self._deltas,
        )

    def _came(self, entry: Entry, came: Came) -> Step | None:
        metric = self._experiment.metric(came.metric)
        if metric is None:
            raise InvalidArgument.of("metric", f"there is no metric {came.metric!r}")
        if not self._is_of_now(entry):
            return None
        known = self._known(came.unit)
        if known is None:
            raise NotExposed(came.unit)
        agent = self._caller.agent
        if agent is not None and agent.agent_name not in known.agents:
            raise ForeignAgent(agent.agent_name, "unit")
        return conclude(known, came, metric, counters=self._counters, deltas=self._deltas)

    def steps(self) -> tuple[LedgerStep, ...]:
        """Return what the reports make of the records; nothing if all was known."""
        if not self._now:
            return ()
        key, number = self._experiment.key, self._phase.number
        # Nothing is recorded of an experiment that was removed, or went on, since it was read: it
        # would be left behind, and counted by the next one of this key.
        as_read = Expect(revision=self._experiment.revision)
        steps: list[LedgerStep] = [Require(Collection.EXPERIMENTS, key, as_read)]
        for unit, record in self._now.items():
            before = self._read[unit]
            expect = Expect(revision=0 if before is None else before.revision)
            steps.append(Put(Collection.EXPOSURES, unit_key(key, number, unit), record, expect))
        fresh = [unit for unit in self._now if self._read[unit] is None]
        if fresh:
            steps.append(Append(units_history(key), [number, fresh], keep=HISTORY_KEPT))
        steps += (Count(name, delta) for name, delta in self._deltas.items())
        if self._deltas:
            steps.append(Count(self._counters.moves, 1))
        return tuple(steps)
