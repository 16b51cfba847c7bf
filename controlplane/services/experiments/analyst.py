"""Looks at what is counted, says what it means, and does what experiments allow.

The analysis takes microseconds and reads a few counters, however many units there are.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.errors import (
    DomainError,
    InvalidArgument,
    InvalidTransition,
    RevisionConflict,
)
from controlplane.domain.experiments.analysis import Analysis, analyse
from controlplane.domain.experiments.counters import Counters
from controlplane.domain.experiments.model import Experiment, Phase, Verdict
from controlplane.domain.identity import Caller
from controlplane.services.experiments.experiments import Experiments
from controlplane.services.experiments.store import audit_of, counts_of, stored
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    Clock,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    Transaction,
)
from controlplane.services.read_model import ReadModel

_PLANE: Final = Caller(name=PLANE, is_admin=True)
"""Who does what nobody has asked for at this moment."""

_log = logging.getLogger("fleetplane.experiments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """An analysis, and when it was made."""

    experiment: Experiment
    analysis: Analysis
    at_ms: int


class Analyst:
    """Judges experiments. Belongs to one event loop."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, experiments: Experiments
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._experiments = experiments
        self._moved: dict[tuple[str, str, int], tuple[int, int]] = {}
        """(namespace, key, phase) -> (counter of moves, revision) as of the last look."""
        self._refused: dict[tuple[str, str, int], str] = {}
        """The same -> why it could not be ended, as was logged."""

    async def analyse(self, namespace: str, key: str, number: int = 0) -> Look:
        """Return what is known of a phase, 0 being the present or last one.

        Raises:
            ExperimentNotFound: there is none.
            InvalidTransition: it was never started.
            InvalidArgument: there is no such phase.
        """
        experiment = await stored(self._ledger, namespace, key)
        if not experiment.phases:
            raise InvalidTransition(
                f"experiment {key!r}", current=experiment.state, wanted="analysed"
            )
        if number > len(experiment.phases):
            raise InvalidArgument.of("phase", f"there are only {len(experiment.phases)}")
        phase = experiment.phases[number - 1] if number else experiment.phases[-1]
        return await self._look(namespace, experiment, phase)

    async def round(self, namespace: str) -> int:
        """Look at what runs in a namespace; return how many conclusions changed.

        An experiment of which nothing was recorded is looked at when its time is up.

        Raises:
            StoreUnavailable: the store does not answer.
            NotReady: nothing is loaded yet.
        """
        running = tuple(self._running(namespace))
        if not running:
            return 0
        names = [Counters(one.key, phase.number).moves for one, phase in running]
        moves = await self._ledger.read_counts(namespace, names)
        changed = 0
        for (experiment, phase), moved in zip(running, moves, strict=True):
            place = namespace, experiment.key, phase.number
            state = moved, experiment.revision
            over = self._clock.store_ms() - phase.started_at_ms >= experiment.plan.max_ms
            if self._moved.get(place) == state and not over:
                continue
            look = await self._look(namespace, experiment, phase)
            changed += await self._keep(namespace, look)
            if await self._act(namespace, look):
                self._moved[place] = state
        self._forget(namespace, running)
        return changed

    def _running(self, namespace: str) -> Iterator[tuple[Experiment, Phase]]:
        table = self._read_model.view(namespace).governance.table(Collection.EXPERIMENTS)
        for experiment in table.values():
            if experiment.running and experiment.phases:
                yield experiment, experiment.phases[-1]

    def _forget(self, namespace: str, running: tuple[tuple[Experiment, Phase], ...]) -> None:
        present = {(namespace, one.key, phase.number) for one, phase in running}
        for place in [one for one in self._moved if one[0] == namespace and one not in present]:
            del self._moved[place]
        for place in [one for one in self._refused if one[0] == namespace and one not in present]:
            del self._refused[place]

    def _complain(self, place: tuple[str, str, int], why: str) -> None:
        """Log why an experiment could not be ended: once, though it is tried again and again."""
        if self._refused.get(place) == why:
            return
        self._refused[place] = why
        _log.warning(
            "an experiment could not be ended", extra={"experiment": place[1], "error": why}
        )

    async def _keep(self, namespace: str, look: Look) -> bool:
        """Store a conclusion that says something else than the one before; False if not."""
        experiment = look.experiment
        said = replace(look.analysis.conclusion, at_ms=look.at_ms)
        before = experiment.conclusion
        if before is not None and (before.phase, before.verdict, before.winner) == (
            said.phase,
            said.verdict,
            said.winner,
        ):
            return False
        unchanged = Expect(revision=experiment.revision)
        after = replace(experiment, conclusion=said)
        transaction = Transaction(
            namespace=namespace,
            steps=(Put(Collection.EXPERIMENTS, experiment.key, after, unchanged),),
            audit=audit_of(
                experiment.key,
                method="AnalyzeExperiment",
                event="concluded",
                actor=PLANE,
                reason=said.why,
                phase=str(said.phase),
                verdict=said.verdict.value,
                winner=said.winner,
            ),
        )
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed:
            return False  # another replica was faster, or an operator changed it: look again
        return True

    async def _act(self, namespace: str, look: Look) -> bool:
        """Promote or stop, if the experiment allows it; False: it has to be tried again."""
        allowed, analysis = look.experiment.plan.automation, look.analysis
        verdict = analysis.verdict
        promotes = allowed.promote and verdict is Verdict.SHIP
        stops = allowed.stop and verdict in {Verdict.ROLLBACK, Verdict.KEEP_CONTROL}
        if not promotes and not stops:
            return True
        place = namespace, look.experiment.key, analysis.phase
        try:
            await self._experiments.stop(
                namespace,
                look.experiment.key,
                promote=analysis.winner if promotes else "",
                expected_phase=analysis.phase,
                reason=f"{verdict}: {analysis.why}",
                caller=_PLANE,
            )
        except (InvalidTransition, RevisionConflict):
            pass  # somebody was faster: it ended, or is in a phase that was not looked at
        except DomainError as refusal:
            self._complain(place, refusal.message)
            return False
        return True

    async def _look(self, namespace: str, experiment: Experiment, phase: Phase) -> Look:
        counts = await counts_of(self._ledger, namespace, experiment, phase)
        now_ms = self._clock.store_ms()
        return Look(
            experiment=experiment,
            analysis=analyse(experiment, phase, counts, now_ms),
            at_ms=now_ms,
        )
