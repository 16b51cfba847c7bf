"""Seals the audit of every namespace, and lets go what may go. Every replica runs one.

The store lets one replica succeed. Who comes second leaves the namespace to the other for some
seconds, so that replicas do not all do the same work.
"""

import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.sealing import AuditSealer, Outcome
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 0.5
"""Mean time between two looks; with the second that entries ripen, what is sealed is 1-2 s old."""

JITTER: Final = 0.3
"""Share of the period by which a pause varies, so that replicas do not look together."""

STAND_BY_SECONDS: Final = 5.0
"""How long a namespace is left to the replica that was faster."""

STUCK_SECONDS: Final = 60.0
"""How long nothing is tried where the newest seal is gone."""

RETENTION_SECONDS: Final = 600.0
"""Time between two looks for what may go; the limit itself is counted in days."""

_log: Final = logging.getLogger("fleetplane.audit")


class AuditSealing:
    """The loop."""

    def __init__(
        self, sealer: AuditSealer, keeper: AuditKeeper, read_model: ReadModel, clock: Clock
    ) -> None:
        self._sealer = sealer
        self._keeper = keeper
        self._read_model = read_model
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._not_before: dict[str, float] = {}
        self._retained_at: float | None = None
        self.failures = 0
        """Looks that the store did not answer."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(PERIOD_SECONDS * self._random.uniform(1 - JITTER, 1 + JITTER))
            await self.round()

    async def round(self) -> None:
        """Seal what is ripe everywhere; now and then let go what may go."""
        try:
            for namespace, view in list(self._read_model.views().items()):
                await self._look(namespace, view.position.revision)
            now = self._clock.monotonic()
            if self._retained_at is None or now - self._retained_at >= RETENTION_SECONDS:
                await self._retain()
                self._retained_at = now
        except (StoreUnavailable, NotReady) as failure:
            self.failures += 1
            _log.debug("sealing of the audit waits", extra={"error": failure.message})

    async def _look(self, namespace: str, revision: int) -> None:
        if revision == self._sealer.sealed_through(namespace):
            return  # a lower one: the store has failed over, and has lost what was sealed
        now = self._clock.monotonic()
        if now < self._not_before.get(namespace, now):
            return
        outcome = await self._sealer.seal(namespace)
        if outcome is Outcome.OVERTAKEN:
            pause = STAND_BY_SECONDS * self._random.uniform(1 - JITTER, 1 + JITTER)
            self._not_before[namespace] = now + pause
        elif outcome is Outcome.STUCK:
            self._not_before[namespace] = now + STUCK_SECONDS

    async def _retain(self) -> None:
        for namespace in list(self._read_model.views()):
            removed = await self._keeper.retain(namespace)
            if removed:
                _log.info(
                    "entries of the audit were trimmed",
                    extra={"namespace": namespace, "entries": removed},
                )
