"""Experiments as operators see them: planned, started, ramped, dealt anew, stopped, removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import (
    InvalidTransition,
    LimitExceeded,
    RevisionConflict,
)
from controlplane.domain.experiments import moves
from controlplane.domain.experiments.model import (
    Experiment,
    ExperimentState,
    Subject,
    Variant,
)
from controlplane.domain.experiments.refusals import (
    ExperimentExists,
)
from controlplane.domain.experiments.validation import validate
from controlplane.domain.identity import Caller
from controlplane.services.experiments.assignment import known
from controlplane.services.experiments.changes import Change, Changes, stamped
from controlplane.services.experiments.erasure import erase
from controlplane.services.experiments.store import audit_of, stored
from controlplane.services.experiments.subjects import Subjects
from controlplane.services.ports import (
    ABSENT,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Position,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

MAX_EXPERIMENTS: Final = 1_000
"""Experiments of a namespace: every replica holds all of them, at some 2 KiB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPage:
    """Some of the experiments of a namespace, by key."""

    experiments: tuple[Experiment, ...]
    total: int
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseOrder:
    """What another phase is to be."""

    variants: tuple[Variant, ...] = ()
    """Empty: those of the present one."""
    coverage_bp: int | None = None
    exclude_exposed: bool = False
    expected_phase: int = 0
    reason: str = ""


class Experiments:
    """Takes orders about experiments."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, subjects: Subjects
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._subjects = subjects
        self._changes = Changes(ledger)

    async def create(
        self,
        namespace: str,
        experiment: Experiment,
        *,
        request: RequestKey | None,
        caller: Caller,
    ) -> Experiment:
        """Plan an experiment.

        Raises:
            InvalidArgument: it is out of bounds, or a variant does not exist.
            ExperimentExists: the key is taken.
            LimitExceeded: there are 1,000 already.
        """
        validate(experiment)
        if request is not None:
            replay = await self._ledger.find_request(namespace, request)
            if replay is not None:
                return await stored(self._ledger, namespace, experiment.key)
        view = self._read_model.view(namespace)
        held = view.governance.table(Collection.EXPERIMENTS)
        if experiment.key not in held and len(held) >= MAX_EXPERIMENTS:
            raise LimitExceeded("experiments of a namespace", limit=MAX_EXPERIMENTS)
        filled = self._subjects.filled(view, experiment.subject, experiment.variants)
        planned = replace(experiment, variants=filled, created_by=caller.name)
        transaction = Transaction(
            namespace=namespace,
            steps=(Put(Collection.EXPERIMENTS, planned.key, planned, ABSENT),),
            audit=audit_of(
                planned.key,
                method="CreateExperiment",
                event="created",
                actor=caller.name,
                request=request,
                subject=planned.subject.key,
            ),
            request=request,
        )
        try:
            committed = await self._ledger.commit(transaction)
        except ConditionFailed:
            raise ExperimentExists(planned.key) from None
        if committed.replayed:
            return await stored(self._ledger, namespace, planned.key)
        return stamped(planned, committed, is_new=True)

    async def get(self, namespace: str, key: str, *, min_revision: int = 0) -> Experiment:
        """Return an experiment.

        Raises:
            ExperimentNotFound: there is none.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        found = known(view, key)
        # This replica may not have heard of it yet.
        return found if found is not None else await stored(self._ledger, namespace, key)

    async def page(
        self,
        namespace: str,
        *,
        states: frozenset[ExperimentState],
        subjects: frozenset[Subject],
        after: str,
        limit: int,
        min_revision: int,
    ) -> ExperimentPage:
        """Return experiments after a key; `states` and `subjects` empty: any."""
        view = await self._read_model.at_least(namespace, min_revision)
        chosen = sorted(
            (
                one
                for one in view.governance.table(Collection.EXPERIMENTS).values()
                if (not states or one.state in states) and (not subjects or one.subject in subjects)
            ),
            key=lambda one: one.key,
        )
        rest = [one for one in chosen if one.key > after]
        experiments = tuple(rest[:limit])
        return ExperimentPage(
            experiments=experiments,
            total=len(chosen),
            next_cursor=experiments[-1].key if len(rest) > limit else "",
            position=view.position,
        )

    async def start(
        self,
        namespace: str,
        key: str,
        *,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Experiment:
        """Begin the first phase.

        Raises:
            ExperimentNotFound: there is none.
            ExperimentActive: another one runs on its subject.
            InvalidTransition: it was started before.
            InvalidArgument: a variant no longer exists.
        """
        view = self._read_model.view(namespace)

        def decide(before: Experiment) -> Change:
            variants = self._subjects.filled(view, before.subject, before.variants)
            after = moves.started(
                before, variants, self._clock.store_ms(), by=caller.name, reason=reason
            )
            hold = Put(Collection.ACTIVE_EXPERIMENTS, before.subject.key, key, ABSENT)
            return Change(after=after, event="started", steps=(hold,))

        return await self._changes.apply(
            namespace,
            key,
            decide,
            method="StartExperiment",
            reason=reason,
            caller=caller,
            request=request,
        )

    async def ramp(
        self, namespace: str, key: str, coverage_bp: int, *, reason: str, caller: Caller
    ) -> Experiment:
        """Cover more units; idempotent.

        Raises:
            ExperimentNotFound: there is none.
            InvalidArgument: it is less than it has, or out of bounds.
            InvalidTransition: it does not run.
        """

        def decide(before: Experiment) -> Change:
            return Change(after=moves.ramped(before, coverage_bp), event="ramped")

        return await self._changes.apply(
            namespace, key, decide, method="SetCoverage", reason=reason, caller=caller
        )

    async def next_phase(
        self,
        namespace: str,
        key: str,
        order: PhaseOrder,
        *,
        request: RequestKey | None,
        caller: Caller,
    ) -> Experiment:
        """Deal anew, and count from nothing.

        Raises:
            ExperimentNotFound: there is none.
            InvalidArgument: the variants or the coverage are wrong.
            InvalidTransition: it does not run.
            RevisionConflict: it is not in the expected phase.
        """
        view = self._read_model.view(namespace)

        def decide(before: Experiment) -> Change:
            present = before.phase
            number = present.number if present is not None else 0
            if order.expected_phase not in {0, number}:
                raise RevisionConflict(
                    f"phase of experiment {key!r}", expected=order.expected_phase, current=number
                )
            wanted: Sequence[Variant] = order.variants or (present.variants if present else ())
            after = moves.next_phase(
                before,
                wanted,
                self._clock.store_ms(),
                coverage_bp=order.coverage_bp,
                exclude_exposed=order.exclude_exposed,
                by=caller.name,
                reason=order.reason,
            )
            filled = self._subjects.filled(view, before.subject, wanted)
            last = replace(after.phases[-1], variants=filled)
            return Change(
                after=replace(after, phases=(*after.phases[:-1], last)), event="phase_started"
            )

        return await self._changes.apply(
            namespace,
            key,
            decide,
            method="StartNewPhase",
            reason=order.reason,
            caller=caller,
            request=request,
        )

    async def stop(
        self,
        namespace: str,
        key: str,
        *,
        promote: str = "",
        expected_phase: int = 0,
        reason: str = "",
        caller: Caller,
    ) -> Experiment:
        """End an experiment; with `promote` its variant becomes what everybody gets, first.

        Two commits: a promotion that is refused leaves the experiment running, and a replica that
        dies in between leaves one whose promotion is done, which the repeated call stops.
        Idempotent. `expected_phase` 0: whichever it is in.

        Raises:
            ExperimentNotFound: there is none.
            InvalidArgument: there is no such variant.
            InvalidTransition: it does not run, and did not end like this.
            RevisionConflict: it is in another phase than expected, or came into one meanwhile, in
                which the variant may be something else.
            DomainError: the variant may not be promoted.
        """
        number = expected_phase

        def decide(before: Experiment) -> Change:
            present = before.phase.number if before.phase is not None else 0
            if number not in {0, present}:
                raise RevisionConflict(
                    f"phase of experiment {key!r}", expected=number, current=present
                )
            after = moves.stopped(
                before,
                self._clock.store_ms(),
                promoted=promote,
                by=caller.name,
                reason=reason,
            )
            release = Delete(Collection.ACTIVE_EXPERIMENTS, before.subject.key)
            steps = () if after is before else (release,)
            return Change(after=after, event="stopped", steps=steps)

        before = await stored(self._ledger, namespace, key)
        asked = decide(before).after  # refuses what cannot be stopped before anything is promoted
        if asked is before:
            return before
        number = asked.phases[-1].number
        chosen = next((v for v in asked.phases[-1].variants if v.name == promote), None)
        if chosen is not None:
            await self._subjects.promote(namespace, before, chosen, reason=reason, caller=caller)
        return await self._changes.apply(
            namespace, key, decide, method="StopExperiment", reason=reason, caller=caller
        )

    async def delete(self, namespace: str, key: str, *, reason: str, caller: Caller) -> bool:
        """Remove an experiment that does not run, with all it has recorded; False: there is none.

        Raises:
            InvalidTransition: it runs.
        """
        (record,) = await self._ledger.read(namespace, Collection.EXPERIMENTS, (key,))
        if record is None:
            return False
        experiment: Experiment = record.value
        if experiment.running:
            raise InvalidTransition(
                f"experiment {key!r}", current=experiment.state, wanted="deleted"
            )
        audit = audit_of(
            key, method="DeleteExperiment", event="deleted", actor=caller.name, reason=reason
        )
        if experiment.phases:
            # Of a draft nothing is recorded, and it may be started at this moment.
            await erase(self._ledger, namespace, experiment, audit)
        unchanged = Delete(Collection.EXPERIMENTS, key, Expect(revision=experiment.revision))
        try:
            await self._ledger.commit(
                Transaction(namespace=namespace, steps=(unchanged,), audit=audit)
            )
        except ConditionFailed:
            # Somebody removed it at the same time, or it was started after all.
            return await self.delete(namespace, key, reason=reason, caller=caller)
        return True
