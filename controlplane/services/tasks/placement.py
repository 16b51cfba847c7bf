"""Which instance takes a task: the agents that can, by fitness, as their slots fill.

The agents for one want are a heap by score. A score is looked at again when it comes to the top,
because it falls with every slot that is taken; so a placement costs a few look-ups, however many
agents there are.
"""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, NamedTuple

from controlplane.domain.agents import Agent, AgentStatus, Instance
from controlplane.domain.routing import (
    SPEED_WEIGHT,
    Candidate,
    Fitness,
    fitness,
    least_loaded,
    total_score,
)
from controlplane.domain.selection import AgentFilter
from controlplane.domain.tasks import Task, TaskReason, TaskStream
from controlplane.services.live_instances import LiveInstance
from controlplane.services.read_model import NamespaceView
from controlplane.services.routing.choice import routed
from controlplane.services.tasks.waiting import Want

SHARE_SIZE: Final = 500
"""Agents scored at once: 2 ms of work. Of more, a share chosen at random is scored first and the
others when it is full: the best of so many is as good as the best."""

LOOKED_AT_PER_SCORED: Final = 10
"""Agents without a free slot that are passed over in the time of scoring one."""

REMEMBERED_HOPS: Final = 3
"""Latest leases of a task whose holders are avoided if they came to nothing."""

POOLS_KEPT: Final = 256
"""Wants whose agents are remembered within a pass: beyond, the one made first is made anew."""

RESERVED_SECONDS: Final = 5.0
"""How long a committed assignment may take to become visible here before it is forgotten: a
follower lags by milliseconds. Forgetting is harmless, the slot is counted in the store."""


class Place(NamedTuple):
    """Where a task goes, as it was seen."""

    agent: Agent
    instance: Instance
    stream: TaskStream


class Reservations:
    """Assignments that were planned here and that the read model does not show yet."""

    def __init__(self) -> None:
        self._planned: dict[str, str] = {}
        """task_id -> instance_id"""
        self._committed: OrderedDict[str, tuple[int, str, float]] = OrderedDict()
        """task_id -> (revision, epoch of the store, when), in the order of the commits."""
        self._slots: Counter[str] = Counter()

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._planned

    def slots(self, instance_id: str) -> int:
        """Return how many slots of an instance are reserved."""
        return self._slots.get(instance_id, 0)

    def plan(self, task_id: str, instance_id: str) -> None:
        """Reserve a slot for a task."""
        self._planned[task_id] = instance_id
        self._slots[instance_id] += 1

    def commit(self, task_id: str, revision: int, epoch: str, now: float) -> None:
        """Keep the reservation until the commit is visible; `now` is monotonic seconds."""
        self._committed[task_id] = revision, epoch, now

    def release(self, task_id: str) -> None:
        """Give the slot back: the assignment is visible, or it failed."""
        instance_id = self._planned.pop(task_id)
        self._committed.pop(task_id, None)
        self._slots[instance_id] -= 1
        if not self._slots[instance_id]:
            del self._slots[instance_id]

    def settle(self, view: NamespaceView, now: float) -> None:
        """Give back the slots of assignments that the view shows."""
        position = view.position
        while self._committed:
            task_id, (revision, epoch, since) = next(iter(self._committed.items()))
            shown = epoch != position.epoch or revision <= position.revision
            if not shown and now - since < RESERVED_SECONDS:
                return
            self.release(task_id)


class _Slots:
    """An instance with what is reserved on it: a `routing.Running`."""

    __slots__ = ("_live", "load", "stream")

    def __init__(self, live: LiveInstance, reserved: int, stream: TaskStream) -> None:
        self._live = live
        self.load = live.load + reserved
        self.stream = stream

    @property
    def instance(self) -> Instance:
        return self._live.instance

    @property
    def latency_ms(self) -> float:
        return self._live.latency_ms

    @property
    def error_rate(self) -> float:
        return self._live.error_rate

    @property
    def stalled(self) -> bool:
        return self._live.stalled


class _Offer(NamedTuple):
    """An agent with those of its instances that take tasks."""

    agent: Agent
    slots: list[_Slots]

    def score(self) -> float | None:
        """Return its score, None if it cannot take a task."""
        state = fitness(self.agent, self.slots)
        if not isinstance(state, Fitness):
            return None
        return total_score(Candidate(self.agent, state, 1.0, 0.0), SPEED_WEIGHT)


class _Pool:
    """The agents for one want: a heap of (-score, tie, agent_id), and those not scored yet."""

    __slots__ = ("heap", "shares")

    def __init__(self, shares: list[list[str]]) -> None:
        self.heap: list[tuple[float, float, str]] = []
        self.shares = shares


_NOBODY: Final[frozenset[str]] = frozenset()

_CAME_TO_NOTHING: Final = frozenset(
    {
        TaskReason.AGENT_FAILED,
        TaskReason.ATTEMPT_TIMEOUT,
        TaskReason.NOT_ACCEPTED,
        TaskReason.RELEASED,
    }
)
"""Ends of a lease after which another instance may do better."""


def _failed_before(task: Task) -> frozenset[str]:
    """Return the instances that a task should not go to if there are others."""
    if not task.hops:
        return _NOBODY
    return frozenset(
        hop.instance_id for hop in task.hops[-REMEMBERED_HOPS:] if hop.reason in _CAME_TO_NOTHING
    )


class Placement:
    """Places tasks for one pass over a namespace. Plans only; nothing is written."""

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations
        self._view: NamespaceView | None = None
        self._offers: dict[str, _Offer | None] = {}
        self._pools: OrderedDict[Want, _Pool] = OrderedDict()
        self.scored = 0
        """Agents scored for the first time: what the pass has cost."""

    def look(self, view: NamespaceView) -> None:
        """Go on with the newest view; to be called after every await."""
        self._view = view
        self._offers.clear()

    def is_exhausted(self, want: Want) -> bool:
        """Whether nobody can take a task with this want until the next pass."""
        return not self._fill(self._pool(want))

    def place(self, task: Task, want: Want) -> Place | None:
        """Reserve a slot for a task at the fittest agent that its route allows; None: nowhere.

        Instances with which it came to nothing before are the last choice.
        """
        avoid = _failed_before(task)
        place = self._search(task, want, avoid)
        return place if place is not None or not avoid else self._search(task, want, _NOBODY)

    def _search(self, task: Task, want: Want, avoid: frozenset[str]) -> Place | None:
        """Reserve a slot on an instance other than those to avoid."""
        pool = self._pool(want)
        allowed = self._allowed(task)
        passed_over: list[tuple[float, float, str]] = []
        place: Place | None = None
        while place is None and self._fill(pool):
            score, tie, agent_id = heappop(pool.heap)
            offer = self._offer(agent_id)
            now = offer.score() if offer is not None else None
            if offer is None or now is None:
                continue
            if pool.heap and -now > pool.heap[0][0]:
                heappush(pool.heap, (-now, tie, agent_id))
            elif allowed is not None and not allowed(offer.agent):
                passed_over.append((score, tie, agent_id))
            else:
                place = self._take(offer, task, avoid)
                passed_over.append((-now, tie, agent_id))
        for entry in passed_over:
            heappush(pool.heap, entry)
        return place

    def _take(self, offer: _Offer, task: Task, avoid: frozenset[str]) -> Place | None:
        unit = task.spec.session_id or task.task_id
        usable = offer.slots
        if avoid:
            usable = [one for one in usable if one.instance.instance_id not in avoid]
        slots = least_loaded(usable, offer.agent.spec.max_concurrency, unit)
        if slots is None:
            return None
        slots.load += 1
        self._reservations.plan(task.task_id, slots.instance.instance_id)
        return Place(offer.agent, slots.instance, slots.stream)

    def _allowed(self, task: Task) -> Callable[[Agent], bool] | None:
        view = self._seen()
        if not view.work.routes:
            return None
        return routed(view, session_id=task.spec.session_id, unit=task.task_id)

    def _offer(self, agent_id: str) -> _Offer | None:
        """Return what an agent offers as of the view, and of what was reserved since."""
        try:
            return self._offers[agent_id]
        except KeyError:
            offer = self._offers[agent_id] = self._new_offer(agent_id)
            return offer

    def _new_offer(self, agent_id: str) -> _Offer | None:
        view = self._seen()
        entry = view.agents.get(agent_id)
        if entry is None:
            return None
        agent = entry.agent
        if agent.status is not AgentStatus.ACTIVE or agent.draining:
            return None
        streams, reserved = view.work.task_streams, self._reservations.slots
        slots: list[_Slots] = []
        for live in entry.fresh_instances():
            instance = live.instance
            stream = streams.get(instance.instance_id)
            if stream is None or instance.draining:
                continue
            if stream.generation_of_instance == instance.generation:
                slots.append(_Slots(live, reserved(instance.instance_id), stream))
        return _Offer(agent, slots)

    def _pool(self, want: Want) -> _Pool:
        pool = self._pools.get(want)
        if pool is None:
            pool = self._pools[want] = _Pool(self._shares(want))
            if len(self._pools) > POOLS_KEPT:
                self._pools.popitem(last=False)
        return pool

    def _shares(self, want: Want) -> list[list[str]]:
        wanted = AgentFilter(
            capabilities=want.capabilities,
            name=want.agent_name,
            statuses=frozenset({AgentStatus.ACTIVE}),
        )
        matches = self._seen().index.candidates(wanted)
        of = -(-len(matches) // SHARE_SIZE)
        if of <= 1:
            return [list(matches.ids)] if of else []
        shares = [matches.share(number, of) for number in range(of)]
        random.shuffle(shares)
        return shares

    def _fill(self, pool: _Pool) -> bool:
        """Score further agents if none is left; False if there are none that can take a task."""
        while not pool.heap and pool.shares:
            share = pool.shares.pop()
            self.scored += len(share) // LOOKED_AT_PER_SCORED
            for agent_id in share:
                if not self._has_room(agent_id):
                    continue
                self.scored += 1
                offer = self._offer(agent_id)
                score = offer.score() if offer is not None else None
                if score is not None:
                    # Equals are told apart at random, so that an idle fleet is used evenly.
                    draw = random.random()  # noqa: S311 - spreads load
                    heappush(pool.heap, (-score, draw, agent_id))
        return bool(pool.heap)

    def _has_room(self, agent_id: str) -> bool:
        """Whether an agent may have a free slot: most of a fleet that is busy has none."""
        entry = self._seen().agents.get(agent_id)
        if entry is None:
            return False
        most, reserved = entry.agent.spec.max_concurrency, self._reservations.slots
        return any(live.load + reserved(name) < most for name, live in entry.instances.items())

    def _seen(self) -> NamespaceView:
        if self._view is None:
            raise RuntimeError("look() comes first")
        return self._view
