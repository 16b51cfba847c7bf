"""Ends approvals whose time is over: the loop around `services.approvals.sweep`."""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.approvals.sweep import ApprovalSweep
from controlplane.services.ports import Clock, Collection
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 0.5
"""Mean time between two looks: how late an expiry is written down. Nobody can decide on, or use,
what has expired in the meantime."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

TIDY_ROUNDS: Final = 120
"""Rounds, about a minute, after which old approvals are looked for as well."""

_log = logging.getLogger("fleetplane.approvals")


class ApprovalSweeper:
    """The loop; every replica runs one."""

    def __init__(
        self,
        sweep: ApprovalSweep,
        read_model: ReadModel,
        clock: Clock,
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._sweep = sweep
        self._read_model = read_model
        self._clock = clock
        self._period_seconds = period_seconds
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._rounds = 0
        self.swept = 0
        """Approvals that this replica has ended or escalated since its start."""
        self.failures = 0
        """Rounds that the store did not answer."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(self._period_seconds * jitter)
            await self.round()

    async def round(self) -> None:
        """Look once at every namespace that has approvals."""
        tidy = self._rounds % TIDY_ROUNDS == 0
        self._rounds += 1
        for namespace, view in tuple(self._read_model.views().items()):
            tables = view.governance
            try:
                if tables.table(Collection.OPEN_APPROVALS):
                    self.swept += await self._sweep.sweep(namespace)
                if tidy and tables.version(Collection.APPROVALS):
                    while await self._sweep.forget(namespace):
                        pass
            except (StoreUnavailable, NotReady) as failure:
                self.failures += 1
                _log.debug("approvals wait", extra={"error": failure.message})
                return
