"""What operators do to an experiment: start, ramp, another phase, stop. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from controlplane.domain.errors import InvalidArgument, InvalidTransition
from controlplane.domain.experiments.model import (
    Experiment,
    ExperimentState,
    Phase,
    Variant,
)
from controlplane.domain.experiments.validation import validate_phase

MAX_PHASES = 50
"""Phases of an experiment: whoever needs more has another question, and another experiment."""


def started(
    experiment: Experiment, variants: Sequence[Variant], now_ms: int, *, by: str, reason: str
) -> Experiment:
    """Return it with its first phase; `variants` are those planned, with their digests.

    Raises:
        InvalidTransition: it was started before.
    """
    if experiment.state is not ExperimentState.DRAFT:
        raise _refused(experiment, "started")
    phase = Phase(
        number=1,
        variants=tuple(variants),
        coverage_bp=experiment.coverage_bp,
        started_at_ms=now_ms,
        started_by=by,
        reason=reason,
    )
    return replace(experiment, state=ExperimentState.RUNNING, phases=(phase,), conclusion=None)


def ramped(experiment: Experiment, coverage_bp: int) -> Experiment:
    """Return it with more coverage; the same object if that is what it has.

    Raises:
        InvalidArgument: out of bounds, or less than it has: that would take a variant away from
            units that have seen it.
        InvalidTransition: it does not run.
    """
    phase = _present(experiment, "ramped")
    validate_phase(phase.variants, coverage_bp, experiment.subject)
    if coverage_bp < phase.coverage_bp:
        raise InvalidArgument.of(
            "coverage_bp",
            f"must not be below {phase.coverage_bp}, what the phase has: start a new phase",
        )
    if coverage_bp == phase.coverage_bp:
        return experiment
    wider = replace(phase, coverage_bp=coverage_bp)
    return replace(experiment, phases=(*experiment.phases[:-1], wider))


def next_phase(
    experiment: Experiment,
    variants: Sequence[Variant],
    now_ms: int,
    *,
    coverage_bp: int | None,
    exclude_exposed: bool,
    by: str,
    reason: str,
) -> Experiment:
    """Return it in another phase: other salts, other weights if wanted, counted from nothing.

    Raises:
        InvalidArgument: the variants or the coverage are wrong.
        InvalidTransition: it does not run.
    """
    phase = _present(experiment, "in another phase")
    if len(experiment.phases) >= MAX_PHASES:
        raise InvalidTransition(
            f"experiment {experiment.key!r}", current=f"phase {MAX_PHASES}", wanted="another phase"
        )
    coverage = phase.coverage_bp if coverage_bp is None else coverage_bp
    validate_phase(variants, coverage, experiment.subject)
    ended = replace(phase, ended_at_ms=now_ms)
    following = Phase(
        number=phase.number + 1,
        variants=tuple(variants),
        coverage_bp=coverage,
        started_at_ms=now_ms,
        exclude_exposed=exclude_exposed,
        started_by=by,
        reason=reason,
    )
    phases = (*experiment.phases[:-1], ended, following)
    return replace(experiment, phases=phases, conclusion=None)


def stopped(
    experiment: Experiment, now_ms: int, *, promoted: str, by: str, reason: str
) -> Experiment:
    """Return it at its end; the same object if it ended like that.

    Raises:
        InvalidArgument: `promote` is none of its variants.
        InvalidTransition: it was never started, or it ended with another promotion.
    """
    if experiment.state is ExperimentState.STOPPED and promoted == experiment.promoted:
        return experiment
    phase = _present(experiment, "stopped")
    if promoted and phase.variant(promoted) is None:
        raise InvalidArgument.of("promote", f"there is no variant {promoted!r}")
    ended = replace(phase, ended_at_ms=now_ms)
    return replace(
        experiment,
        state=ExperimentState.STOPPED,
        phases=(*experiment.phases[:-1], ended),
        promoted=promoted,
        stopped_by=by,
        stop_reason=reason,
    )


def _present(experiment: Experiment, wanted: str) -> Phase:
    phase = experiment.phase
    if phase is None or not experiment.running:
        raise _refused(experiment, wanted)
    return phase


def _refused(experiment: Experiment, wanted: str) -> InvalidTransition:
    return InvalidTransition(
        f"experiment {experiment.key!r}", current=experiment.state, wanted=wanted
    )
