"""Changes one experiment in one commit, on condition that it is as it was read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.experiments.model import Experiment
from controlplane.domain.experiments.refusals import ExperimentActive
from controlplane.domain.identity import Caller
from controlplane.services.experiments.store import audit_of, stored
from controlplane.services.ports import (
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Step,
    Transaction,
)

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported; each loses to a commit that won."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one commit does to an experiment."""

    after: Experiment
    event: str
    """Such as `started`."""
    steps: tuple[Step, ...] = ()
    """Besides the record: who holds the subject."""


Decision = Callable[[Experiment], Change]
"""What becomes of an experiment, as the ledger has it; `after` is the same object: nothing."""


class Changes:
    """Commits decisions."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def apply(
        self,
        namespace: str,
        key: str,
        decide: Decision,
        *,
        method: str,
        reason: str,
        caller: Caller,
        request: RequestKey | None = None,
    ) -> Experiment:
        """Decide on what the ledger says and commit it, until nobody interferes.

        Raises:
            ExperimentNotFound: there is none.
            ExperimentActive: another one holds the subject.
            StoreUnavailable: too many callers change it at once.
        """
        for _ in range(MAX_ROUNDS):
            if request is not None and await self._ledger.find_request(namespace, request):
                return await stored(self._ledger, namespace, key)
            before = await stored(self._ledger, namespace, key)
            change = decide(before)
            if change.after is before:
                return before
            put = Put(Collection.EXPERIMENTS, key, change.after, Expect(revision=before.revision))
            audit = audit_of(
                key,
                method=method,
                event=change.event,
                actor=caller.name,
                reason=reason,
                request=request,
                **_details(change.after),
            )
            transaction = Transaction(
                namespace=namespace, steps=(put, *change.steps), audit=audit, request=request
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed as lost:
                if lost.step:
                    await self._refuse_active(namespace, before)
                continue
            if committed.replayed:
                return await stored(self._ledger, namespace, key)
            return stamped(change.after, committed)
        raise StoreUnavailable("too many callers change this experiment at once")

    async def _refuse_active(self, namespace: str, experiment: Experiment) -> None:
        """Raise ExperimentActive if the subject is held by another one."""
        subject = experiment.subject.key
        (record,) = await self._ledger.read(namespace, Collection.ACTIVE_EXPERIMENTS, (subject,))
        if record is not None and record.value != experiment.key:
            raise ExperimentActive(record.value, subject)


def stamped(experiment: Experiment, committed: Committed, *, is_new: bool = False) -> Experiment:
    """Return an experiment with what its commit has given it."""
    return replace(
        experiment,
        revision=committed.revision,
        generation=committed.revision if is_new else experiment.generation,
        created_at_ms=committed.at_ms if is_new else experiment.created_at_ms,
        updated_at_ms=committed.at_ms,
    )


def _details(experiment: Experiment) -> dict[str, str]:
    phase = experiment.phase
    details = {"state": experiment.state.value}
    if phase is not None:
        details |= {"phase": str(phase.number), "coverage_bp": str(phase.coverage_bp)}
    if experiment.promoted:
        details["promoted"] = experiment.promoted
    return details
