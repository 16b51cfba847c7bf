"""Tells the webhook about approvals: the loop around `services.approvals.notices`."""

import asyncio
import logging
import random
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.approvals.notices import ApprovalNotices
from controlplane.services.ports import Clock, Collection
from controlplane.services.read_model import ReadModel

PERIOD_SECONDS: Final = 1.0
"""Mean time between looks: how late people hear that they are asked."""

JITTER: Final = 0.5
"""Share of the period by which a pause varies, so that replicas take turns by themselves."""

_log = logging.getLogger("fleetplane.webhook")


class WebhookSender:
    """The loop; every replica runs one if a webhook is set."""

    def __init__(self, notices: ApprovalNotices, read_model: ReadModel, clock: Clock) -> None:
        self._notices = notices
        self._read_model = read_model
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            await self._clock.sleep(PERIOD_SECONDS * jitter)
            await self.round()

    async def round(self) -> None:
        """Look once at every namespace. A receiver that hangs delays the next look by 10 s."""
        names = [
            name
            for name, view in self._read_model.views().items()
            if view.governance.table(Collection.APPROVALS)
            or view.governance.table(Collection.WEBHOOK_OUTBOX)
        ]
        await asyncio.gather(*(self._tick(name) for name in names))

    async def _tick(self, namespace: str) -> None:
        try:
            await self._notices.tick(namespace)
        except (StoreUnavailable, NotReady) as failure:
            _log.debug("webhooks wait for the store", extra={"error": failure.message})
