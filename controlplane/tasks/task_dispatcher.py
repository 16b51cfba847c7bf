"""Moves tasks along: the loops around assignment and recovery, and the end of task streams."""

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Final

from controlplane.domain.errors import NotReady, StoreUnavailable
from controlplane.services.hub import Subscription, agents_topic, tasks_topic
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel
from controlplane.services.tasks.assignment import TaskAssigner
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.recovery import TaskRecovery
from controlplane.tasks.runner import run_tasks

TICK_SECONDS: Final = 0.25
"""Time between two sweeps: how late a deadline, or a lost lease, may be noticed."""

LEFT_TO_OTHERS_SECONDS: Final = (0.2, 0.4)
"""How long what changed elsewhere is left to the replica where it changed: it was woken at once.
Longer than its commit takes to arrive here, different each time, so that replicas do not race."""

IDLE_SECONDS: Final = 1.0
"""Longest time that tasks wait without a look, whatever has changed or not."""

SEEN_SECONDS: Final = (0.01, 0.03)
"""Pause before the next pass when something was committed that is not seen here yet: by another
replica that was faster, or by recovery. It is seen by then."""

RETRY_SECONDS: Final = 0.1
"""Pause after a pass that the store did not answer."""

STEP_SECONDS: Final = 0.02
"""Longest sleep while something is due: what becomes due earlier waits no longer."""

MANY_AGENTS: Final = 1_000
"""Agents scored in one pass, from which on the next pass waits a little."""

PAUSE_PER_AGENT_SECONDS: Final = 10e-6
"""Pause for each of them, about twice what scoring it has cost: in a huge fleet that is full, a
pass for every free slot would leave no time for anything else."""

_log = logging.getLogger("fleetplane.tasks")


class TaskDispatcher:
    """The loops; every replica runs one set of them."""

    def __init__(
        self,
        assigner: TaskAssigner,
        recovery: TaskRecovery,
        delivery: TaskDelivery,
        read_model: ReadModel,
        clock: Clock,
    ) -> None:
        """Drive these, for every namespace of the read model."""
        self._assigner = assigner
        self._recovery = recovery
        self._delivery = delivery
        self._read_model = read_model
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._due: dict[str, float] = {}
        """namespace -> when it is looked at although nothing happened here, monotonic seconds."""
        self._something_due = asyncio.Event()
        self.failures = 0
        """Rounds that the store did not answer."""

    async def run(self) -> None:
        """Work until cancelled. A store that is away is waited for; any other failure ends this."""
        with self._read_model.hub.subscribe(()) as news:
            await run_tasks(
                self._assign, self._remind, lambda: self._listen(news), lambda: self._tick(news)
            )

    async def _assign(self) -> None:
        """Assign in namespaces that were woken."""
        while True:
            namespace = await self._assigner.next_woken()
            contested, scored = self._assigner.contested, self._assigner.scored
            left_to_others = self._assigner.left_to_others
            try:
                await self._assigner.assign(namespace)
            except (StoreUnavailable, NotReady) as failure:
                self._note_failure("assignment", failure)
                self._look_within(namespace, RETRY_SECONDS)
                await self._clock.sleep(RETRY_SECONDS)
                continue
            if self._assigner.contested > contested:
                self._look_within(namespace, self._random.uniform(*SEEN_SECONDS))
            if self._assigner.left_to_others > left_to_others:
                self._look_within(namespace, self._random.uniform(*LEFT_TO_OTHERS_SECONDS))
            scored = self._assigner.scored - scored
            if scored >= MANY_AGENTS:
                await self._clock.sleep(scored * PAUSE_PER_AGENT_SECONDS)

    async def _remind(self) -> None:
        """Wake the assigner for namespaces whose time has come."""
        while True:
            while not self._due:
                self._something_due.clear()
                await self._something_due.wait()
            namespace = min(self._due, key=self._due.__getitem__)
            pause = self._due[namespace] - self._clock.monotonic()
            if pause > 0:
                await self._clock.sleep(min(pause, STEP_SECONDS))
            else:
                del self._due[namespace]
                self._assigner.wake(namespace)

    async def _listen(self, news: Subscription) -> None:
        """Note where something has changed; who changed it has the first turn."""
        while True:
            for topic in await news.wait():
                namespace = topic.rpartition("/")[0]
                self._look_within(namespace, self._random.uniform(*LEFT_TO_OTHERS_SECONDS))

    async def _tick(self, news: Subscription) -> None:
        """Sweep every namespace, and look at those that are due."""
        while True:
            namespaces = tuple(self._read_model.views())
            self._subscribe(news, namespaces)
            for namespace in namespaces:
                await self._sweep(namespace)
            try:
                await self._delivery.remove_left()
            except (StoreUnavailable, NotReady) as failure:
                self._note_failure("removal of streams", failure)
            await self._clock.sleep(TICK_SECONDS)

    async def _sweep(self, namespace: str) -> None:
        """Sweep one namespace; one that fails does not hold up the others."""
        try:
            if await self._recovery.sweep(namespace):
                self._look_within(namespace, self._random.uniform(*SEEN_SECONDS))
            if len(self._read_model.view(namespace).work.tasks.waiting):
                self._look_within(namespace, IDLE_SECONDS)
        except (StoreUnavailable, NotReady) as failure:
            self._note_failure("recovery", failure)

    def _subscribe(self, news: Subscription, namespaces: Iterable[str]) -> None:
        for namespace in namespaces:
            topics = (tasks_topic(namespace), agents_topic(namespace))
            if topics[0] not in news.topics:
                self._read_model.hub.extend(news, topics)
                self._assigner.wake(namespace)  # Nothing was heard of it until now.

    def _look_within(self, namespace: str, seconds: float) -> None:
        at = self._clock.monotonic() + seconds
        known = self._due.get(namespace)
        if known is None or at < known:
            self._due[namespace] = at
            self._something_due.set()

    def _note_failure(self, what: str, failure: StoreUnavailable | NotReady) -> None:
        self.failures += 1
        _log.debug("round failed", extra={"what": what, "error": failure.message})
