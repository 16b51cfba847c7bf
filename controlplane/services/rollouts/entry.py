"""Waiting until a step that is about to be entered has been entered."""

import asyncio
from typing import Final

from controlplane.services.hub import rollout_topic
from controlplane.services.read_model import ReadModel

PATIENCE_SECONDS: Final = 3.0
"""Several looks of the reconciler; a step that is held back longer waits for capacity."""


async def step_entered(
    read_model: ReadModel, namespace: str, rollout_id: str, expected_step_index: int | None
) -> None:
    """Return once the rollout is about to enter no step, or after `PATIENCE_SECONDS`.

    Resuming leaves it to the reconciler to enter the step. Whoever promotes right after that means
    the step after it, and need not know of the half second between. Who expects another step is
    refused at once.
    """

    def waits() -> bool:
        rollout = read_model.view(namespace).work.rollouts.get(rollout_id)
        if rollout is None or not rollout.entering:
            return False
        return expected_step_index in {None, rollout.step_index}

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with read_model.hub.subscribe((rollout_topic(namespace, rollout_id),)) as news:
                while waits():
                    await news.wait()
    except TimeoutError:
        return
