"""Who runs a configuration already, and who does not."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.agents import InstanceState
from controlplane.domain.configs import LayerScope
from controlplane.domain.errors import Draining
from controlplane.services.configs import agents_in_scope
from controlplane.services.hub import Subscription, acknowledgements_topic, agents_topic
from controlplane.services.live_instances import LiveInstance
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel

LOOK_SECONDS: Final = 2.0
"""Longest pause between two looks. Acknowledgements and changes of agents wake the waiting; this is
for a wake-up that was lost."""

LEAST_PAUSE_SECONDS: Final = 0.05
"""Shortest pause between two looks: a fleet that acknowledges in a second is looked at 20 times."""

PAUSES_PER_LOOK: Final = 10
"""The pause is at least so many times what the look before it took: looking at a very large fleet
costs at most a tenth of the event loop."""

MARGIN_SECONDS: Final = 0.5
"""Kept of the caller's deadline to send the answer: an answer with laggards beats a time-out."""

LONGEST_SECONDS: Final = 600.0
"""Bound for callers without a deadline."""

MAX_REPORTED: Final = 1000
"""Laggards listed by name."""

APPLIED: Final = 2
"""`LiveInstance.config_status` of a configuration that runs."""

_LIVE = frozenset({InstanceState.STARTING, InstanceState.FRESH})


@dataclass(frozen=True, slots=True)
class Converged:
    """How far a scope is."""

    converged: int
    laggards: tuple[LiveInstance, ...]


class Convergence:
    """Waits for a fleet to run a revision."""

    def __init__(
        self, read_model: ReadModel, clock: Clock, *, is_draining: Callable[[], bool] = bool
    ) -> None:
        """Wait on what `read_model` knows, for as long as `is_draining` says no."""
        self._read_model = read_model
        self._clock = clock
        self._is_draining = is_draining

    async def wait(
        self, namespace: str, scope: LayerScope, revision: int, *, seconds: float | None
    ) -> Converged:
        """Wait until every live instance runs `revision` or `seconds` have nearly passed.

        Raises:
            Draining: this replica shuts down; another one can be asked to go on waiting.
        """
        patience = min(seconds if seconds is not None else LONGEST_SECONDS, LONGEST_SECONDS)
        until = self._clock.monotonic() + patience - MARGIN_SECONDS
        topics = (acknowledgements_topic(namespace), agents_topic(namespace))
        with self._read_model.hub.subscribe(topics) as news:
            while True:
                news.take()  # what is known by now, the look sees
                began = self._clock.monotonic()
                state = look(self._read_model.view(namespace), scope, revision)
                now = self._clock.monotonic()
                if not state.laggards or now >= until:
                    return state
                if self._is_draining():
                    raise Draining
                again = now + max(LEAST_PAUSE_SECONDS, (now - began) * PAUSES_PER_LOOK)
                await self._hear(news, min(LOOK_SECONDS, until - now))
                await self._clock.sleep(min(again, until) - self._clock.monotonic())

    async def _hear(self, news: Subscription, seconds: float) -> None:
        """Wait for news, for at most so long on the clock."""
        hearing = asyncio.ensure_future(news.wait())
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((hearing, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            timer.cancel()
            await asyncio.gather(hearing, timer, return_exceptions=True)


def look(view: NamespaceView, scope: LayerScope, revision: int) -> Converged:
    """Return how far a scope is now. Instances that are silent or lost do not count."""
    converged = 0
    laggards: list[LiveInstance] = []
    for agent_id in agents_in_scope(view, scope):
        for live in view.agents[agent_id].instances.values():
            if live.instance.state not in _LIVE:
                continue
            if live.config_status == APPLIED and live.config_running >= revision:
                converged += 1
            else:
                laggards.append(live)
    laggards.sort(key=lambda live: live.instance.instance_id)
    return Converged(converged, tuple(laggards))
