"""Carries rollouts on: sees, asks the machine, and commits what it says. Any replica may.

There is no leader and nothing to hand over: whatever a transition does is part of its one commit,
on condition that the record is as it was read. Who is late loses, and looks again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.rollouts.machine import next_transition
from controlplane.domain.rollouts.model import Rollout
from controlplane.domain.rollouts.transitions import Transition
from controlplane.services.families import commit_each
from controlplane.services.lifecycle.activation import (
    ActivationCheck,
    ActivationVerdict,
    RememberedRefusals,
)
from controlplane.services.live_instances import AgentEntry
from controlplane.services.ports import Clock, Committed, ConditionFailed, Ledger, Transaction
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.rollouts.sight import PinnedWork, is_counted, observe
from controlplane.services.rollouts.steps import (
    counters_of,
    transition_audit,
    transition_steps,
)

BATCH: Final = 50
"""Transitions in one round trip; each is a commit of its own. One carries 100 looks at most, so a
batch stays below a megabyte."""

METHOD: Final = "Rollout"
"""`method` in the audit of what a rollout does by itself."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A transition and the commit that makes it."""

    rollout_id: str
    name: str
    transaction: Transaction


class RolloutReconciler:
    """One look at a time; see `tick`."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        activation: ActivationCheck,
        clock: Clock,
        *,
        mass_silence: Callable[[str], bool] = lambda _: False,
        on_transition: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        """Watch over the rollouts in `read_model`.

        `mass_silence` says of a namespace whether most of its fleet is silent; rollouts then stand
        still. `on_transition` is called with the rollout_id and `before:<NAME>` or `after:<NAME>`
        directly before and after each commit, for tests that end the process there.
        """
        self._ledger = ledger
        self._read_model = read_model
        self._activation = RememberedRefusals(activation, clock)
        self._clock = clock
        self._mass_silence = mass_silence
        self._on_transition = on_transition
        self._counters: dict[tuple[str, int], tuple[str, ...]] = {}
        self.contested = 0
        """Transitions that another replica, or an operator, made first."""

    async def tick(self, namespace: str) -> int:
        """Look at every active rollout once; return how many transitions were committed.

        Raises:
            NotReady: nothing is loaded yet.
            StoreUnavailable: the store did not answer; some transitions may have happened.
        """
        view = self._read_model.view(namespace)
        rollouts = active_rollouts(view)
        if not rollouts:
            self._counters.clear()
            return 0
        counted = await self._counts(namespace, rollouts)
        # What was read is at least as old as what is decided on it: the view must be the newest.
        view = self._read_model.view(namespace)
        silence = self._mass_silence(namespace)
        pinned = PinnedWork(view)
        due: list[_Due] = []
        for rollout, counts in zip(rollouts, counted, strict=True):
            if view.work.rollouts.get(rollout.rollout_id) is rollout:
                one = self._due(view, rollout, counts, pinned, silence=silence)
                if one is not None:
                    due.append(one)
        made = 0
        for start in range(0, len(due), BATCH):
            made += await self._commit(due[start : start + BATCH])
        return made

    async def _counts(self, namespace: str, rollouts: Sequence[Rollout]) -> list[Sequence[int]]:
        """Read the outcome counters of all rollouts at once."""
        names: list[str] = []
        cache: dict[tuple[str, int], tuple[str, ...]] = {}
        for rollout in rollouts:
            if is_counted(rollout):
                key = (rollout.rollout_id, rollout.step_token)
                known = self._counters.get(key)
                cache[key] = known if known is not None else counters_of(rollout)
                names.extend(cache[key])
        self._counters = cache
        values = await self._ledger.read_counts(namespace, names) if names else []
        counted: list[Sequence[int]] = []
        taken = 0
        for rollout in rollouts:
            size = 4 if is_counted(rollout) else 0
            counted.append(values[taken : taken + size])
            taken += size
        return counted

    def _due(
        self,
        view: NamespaceView,
        rollout: Rollout,
        counts: Sequence[int],
        pinned: PinnedWork,
        *,
        silence: bool,
    ) -> _Due | None:
        seen, verdict = observe(
            view, rollout, counts, self._ask, mass_silence=silence, pinned=pinned
        )
        now_ms = self._clock.store_ms()
        transition = next_transition(rollout, seen, now_ms)
        if transition is None:
            return None
        transaction = _transaction(view, rollout, transition, now_ms, verdict)
        return _Due(rollout.rollout_id, str(transition.name), transaction)

    def _ask(self, view: NamespaceView, entry: AgentEntry) -> ActivationVerdict:
        return self._activation.may_activate(view, entry.agent)

    async def _commit(self, due: Sequence[_Due]) -> int:
        """Commit each transition for itself; a lost race is nobody's fault."""
        self._tell("before", due)
        results = await commit_each(self._ledger, [one.transaction for one in due])
        made = [one for one, result in zip(due, results, strict=True) if _happened(result)]
        self._tell("after", made)
        failure: Exception | None = None
        for result in results:
            match result:
                case Committed():
                    pass
                case ConditionFailed():
                    self.contested += 1
                case _ if failure is None or isinstance(failure, StoreUnavailable):
                    failure = result
        if failure is not None:
            raise failure
        return len(made)

    def _tell(self, when: str, due: Iterable[_Due]) -> None:
        for one in due:
            self._on_transition(one.rollout_id, f"{when}:{one.name}")


def active_rollouts(view: NamespaceView) -> list[Rollout]:
    """Return the rollouts that have not ended."""
    known = view.work.rollouts
    ids = view.work.active_rollouts.values()
    return [known[rollout_id] for rollout_id in ids if rollout_id in known]


def _happened(result: Committed | Exception) -> bool:
    return isinstance(result, Committed)


def _transaction(
    view: NamespaceView,
    rollout: Rollout,
    transition: Transition,
    now_ms: int,
    verdict: ActivationVerdict | None,
) -> Transaction:
    return Transaction(
        namespace=view.name,
        steps=transition_steps(view, rollout, transition, now_ms=now_ms, verdict=verdict),
        audit=transition_audit(rollout, transition, method=METHOD),
    )
