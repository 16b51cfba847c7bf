"""Says whether what a unit does counts: the one thing about an assignment that is not computed."""

from controlplane.domain.experiments.model import Exclusion, Experiment, unit_key
from controlplane.services.ports import Collection, Ledger


async def exclusion_of(
    ledger: Ledger, namespace: str, experiment: Experiment, unit: str
) -> Exclusion:
    """Return why a unit counts for nothing in the present phase; NONE if it does, or would.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    phase = experiment.phase
    if phase is None:
        return Exclusion.NONE
    numbers = [phase.number]
    if phase.exclude_exposed:
        numbers += range(1, phase.number)
    keys = [unit_key(experiment.key, number, unit) for number in numbers]
    now, *before = await ledger.read(namespace, Collection.EXPOSURES, keys)
    if now is not None:
        excluded: Exclusion = now.value.excluded
        return excluded
    return Exclusion.EARLIER_PHASE if any(before) else Exclusion.NONE
