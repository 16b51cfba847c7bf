"""Removes what experiments have recorded.

Records of units are in no replica's copy. Each batch that made some has an entry in a history of
its experiment, which says which; so they can be found, and nothing else has to be searched.
"""

from collections.abc import Iterator
from typing import Final

from controlplane.domain.experiments.counters import Counters
from controlplane.domain.experiments.model import Experiment, unit_key, units_history
from controlplane.services.ports import (
    Append,
    AuditEntry,
    Collection,
    Delete,
    Ledger,
    ResetCount,
    Step,
    Transaction,
)

STEPS_AT_ONCE: Final = 500
"""Steps of one commit: a few milliseconds of the store."""

_ENTRIES_AT_ONCE: Final = 100
"""Entries of the history in one read: each names up to 500 units."""


async def erase(ledger: Ledger, namespace: str, experiment: Experiment, audit: AuditEntry) -> None:
    """Remove the units and counters of an experiment; repeat it if it fails halfway.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    history, before = units_history(experiment.key), None
    while True:
        entries = await ledger.read_history(
            namespace, history, before=before, limit=_ENTRIES_AT_ONCE
        )
        for entry in entries:
            number, units = entry.value
            await _commit(
                ledger,
                namespace,
                tuple(
                    Delete(Collection.EXPOSURES, unit_key(experiment.key, number, unit))
                    for unit in units
                ),
                audit,
            )
        if not entries:
            break
        before = entries[-1].revision
    steps = (Append(history, [0, []], keep=0), *_resets(experiment))
    for start in range(0, len(steps), STEPS_AT_ONCE):
        await _commit(ledger, namespace, steps[start : start + STEPS_AT_ONCE], audit)


def _resets(experiment: Experiment) -> Iterator[Step]:
    for phase in experiment.phases:
        counters = Counters(experiment.key, phase.number)
        yield ResetCount(counters.moves)
        yield from (ResetCount(name) for name in counters.names(experiment, phase))


async def _commit(
    ledger: Ledger, namespace: str, steps: tuple[Step, ...], audit: AuditEntry
) -> None:
    await ledger.commit(Transaction(namespace=namespace, steps=steps, audit=audit))
