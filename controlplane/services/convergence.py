"""Who runs a configuration already, and who does not."""

from dataclasses import dataclass

from controlplane.domain.agents import InstanceState
from controlplane.domain.configs import LayerScope
from controlplane.services.configs import agents_in_scope
from controlplane.services.ports import Clock
from controlplane.services.read_model import LiveInstance, NamespaceView, ReadModel

LOOK_SECONDS = 0.1
"""Pause between two looks: acknowledgements arrive with beats and wake nobody."""

MARGIN_SECONDS = 0.5
"""Kept of the caller's deadline to send the answer: an answer with laggards beats a time-out."""

LONGEST_SECONDS = 600.0
"""Bound for callers without a deadline."""

MAX_REPORTED = 1000
"""Laggards listed by name."""

APPLIED = 2
"""`LiveInstance.config_status` of a configuration that runs."""

_LIVE = frozenset({InstanceState.STARTING, InstanceState.FRESH})


@dataclass(frozen=True, slots=True)
class Converged:
    """How far a scope is."""

    converged: int
    laggards: tuple[LiveInstance, ...]


class Convergence:
    """Waits for a fleet to run a revision."""

    def __init__(self, read_model: ReadModel, clock: Clock) -> None:
        self._read_model = read_model
        self._clock = clock

    async def wait(
        self, namespace: str, scope: LayerScope, revision: int, *, seconds: float | None
    ) -> Converged:
        """Wait until every live instance runs `revision` or `seconds` have nearly passed."""
        patience = min(seconds if seconds is not None else LONGEST_SECONDS, LONGEST_SECONDS)
        until = self._clock.monotonic() + patience - MARGIN_SECONDS
        while True:
            state = look(self._read_model.view(namespace), scope, revision)
            if not state.laggards or self._clock.monotonic() >= until:
                return state
            await self._clock.sleep(LOOK_SECONDS)


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
