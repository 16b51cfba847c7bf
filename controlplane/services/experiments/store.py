"""Reads experiments from the ledger, and the counters of their phases."""

from typing import Final

from controlplane.domain.experiments.counters import Counters, PhaseCounts
from controlplane.domain.experiments.model import Experiment, Phase
from controlplane.domain.experiments.refusals import ExperimentNotFound
from controlplane.services.ports import AuditEntry, Collection, Ledger, RequestKey

EVENT: Final = "experiment"
"""What the events of experiments begin with, such as `experiment.started`."""


async def stored(ledger: Ledger, namespace: str, key: str) -> Experiment:
    """Return an experiment as the ledger has it.

    Raises:
        ExperimentNotFound: there is none.
    """
    (record,) = await ledger.read(namespace, Collection.EXPERIMENTS, (key,))
    if record is None:
        raise ExperimentNotFound(key)
    experiment: Experiment = record.value
    return experiment


async def counts_of(
    ledger: Ledger, namespace: str, experiment: Experiment, phase: Phase
) -> PhaseCounts:
    """Return what is counted of a phase, in one read."""
    counters = Counters(experiment.key, phase.number)
    names = tuple(counters.names(experiment, phase))
    values = await ledger.read_counts(namespace, names)
    return counters.read(experiment, phase, values)


def audit_of(
    key: str,
    *,
    method: str,
    event: str,
    actor: str,
    reason: str = "",
    request: RequestKey | None = None,
    **details: str,
) -> AuditEntry:
    """Return the audit entry of what happened to an experiment."""
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"experiments/{key}",
        event=f"{EVENT}.{event}",
        reason=reason,
        request_id=request.request_id if request is not None else "",
        details=details,
    )
