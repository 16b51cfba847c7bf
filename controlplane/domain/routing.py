"""How fit an agent is for the next task, and which of its instances takes it.

Score = 0.5 * capability_match + (0.5 - w) * concurrency + w * speed, w = 0.3 if low latency is
preferred, else 0.1. Every part is between 0 and 1, and so is the score. Nothing depends on the
order in which candidates are given, and replicas with the same knowledge give the same answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from math import fsum
from typing import NamedTuple, Protocol, TypeVar

from controlplane.domain.agents import Agent, Instance
from controlplane.domain.selection import DRAINING_DETAIL, Mismatch, RejectionReason

CAPABILITY_WEIGHT = 0.5
"""Weight of the capability match."""

SPEED_WEIGHT = 0.1
"""Weight of speed, taken from that of concurrency."""

LOW_LATENCY_SPEED_WEIGHT = 0.3
"""Weight of speed when low latency is preferred."""

_MS_PER_SECOND = 1000.0


class Running(Protocol):
    """What routing asks of an instance."""

    @property
    def instance(self) -> Instance:
        """Its record."""

    @property
    def load(self) -> int:
        """Slots that are taken: by leases, and by work that the plane did not assign."""

    @property
    def latency_ms(self) -> float:
        """Smoothed task latency in milliseconds; 0 if unknown."""

    @property
    def error_rate(self) -> float:
        """Share of failed tasks over the recent past, 0-1."""

    @property
    def stalled(self) -> bool:
        """Whether it has tasks in flight and makes no progress."""


_Running = TypeVar("_Running", bound=Running)


class Fitness(NamedTuple):
    """What the live instances of an agent say together."""

    concurrency: float
    """Free share of their capacity, above 0 up to 1."""
    speed: float
    """0-1; see `fitness`."""
    in_flight: int
    """Their load, that of draining instances included."""
    measured: bool
    """Whether `speed` comes from measured latency and not from the declared timeout."""


class Candidate(NamedTuple):
    """One agent that qualifies, before it is compared with others."""

    agent: Agent
    fitness: Fitness
    capability_match: float
    """1 when the wanted capabilities are a condition; the text match relative to the best when
    there are none; 0-1."""
    text_match: float
    """Text match relative to the best, 0-1; decides between equal scores. 0 without a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The score of one candidate with its parts; all but `in_flight` are 0-1."""

    agent_id: str
    name_version: str
    total: float
    capability_match: float
    concurrency: float
    speed: float
    speed_weight: float
    in_flight: int
    measured: bool


def fitness(agent: Agent, fresh: Sequence[Running]) -> Fitness | Mismatch:
    """Return the fitness of an agent by its fresh instances, or why it cannot take a task.

    A draining instance is none. A stalled one offers nothing: its slots count as taken, and its
    speed does not count. More tasks than slots on one instance take no slots from the others. Speed
    is the mean over instances with a measured latency of `1 / (1 + latency in s) * (1 -
    error_rate)`; until one has a latency it is `1 / timeout_seconds`.
    """
    if agent.draining:
        return RejectionReason.DRAINING, DRAINING_DETAIL
    if not fresh:
        return RejectionReason.CAPACITY, "has no fresh instance"
    slots = agent.spec.max_concurrency
    free = in_flight = staying = 0
    stalled = True
    speeds: list[float] = []
    for running in fresh:
        load = running.load
        in_flight += load
        if running.instance.draining:
            continue
        staying += 1
        if running.stalled:
            continue
        stalled = False
        if load < slots:
            free += slots - load
        if running.latency_ms > 0:
            speeds.append((1 - running.error_rate) / (1 + running.latency_ms / _MS_PER_SECOND))
    if not free:
        return _why_not(len(fresh), staying, slots, in_flight, stalled=stalled)
    # fsum: a plain sum rounds differently in every order of the instances.
    speed = fsum(speeds) / len(speeds) if speeds else 1 / agent.spec.timeout_seconds
    return Fitness(free / (slots * staying), speed, in_flight, bool(speeds))


def _why_not(fresh: int, staying: int, slots: int, in_flight: int, *, stalled: bool) -> Mismatch:
    """Return why nobody of so many fresh instances has a free slot."""
    if not staying:
        return RejectionReason.DRAINING, "every fresh instance is being drained"
    some_leave = staying < fresh
    if stalled:
        which = "every fresh instance that stays" if some_leave else "every fresh instance"
        return RejectionReason.STALLED, f"{which} is stalled"
    which = "instances that stay" if some_leave else "instances"
    detail = f"no free slot: {in_flight} in flight, {slots} slots on each of {staying} {which}"
    return RejectionReason.CAPACITY, detail


def total_score(candidate: Candidate, speed_weight: float) -> float:
    """Return the score of a candidate, 0-1."""
    state = candidate.fitness
    return (
        CAPABILITY_WEIGHT * candidate.capability_match
        + (1 - CAPABILITY_WEIGHT - speed_weight) * state.concurrency
        + speed_weight * state.speed
    )


def score(candidate: Candidate, speed_weight: float) -> Score:
    """Return the score of a candidate with its parts."""
    agent, state = candidate.agent, candidate.fitness
    return Score(
        agent_id=agent.agent_id,
        name_version=agent.spec.name_version,
        total=total_score(candidate, speed_weight),
        capability_match=candidate.capability_match,
        concurrency=state.concurrency,
        speed=state.speed,
        speed_weight=speed_weight,
        in_flight=state.in_flight,
        measured=state.measured,
    )


class Ranking:
    """Candidates in the order of their scores; equal ones are told apart for each session anew."""

    __slots__ = ("_by_name", "_rows", "speed_weight")

    def __init__(self, candidates: Iterable[Candidate], speed_weight: float) -> None:
        self.speed_weight = speed_weight
        self._by_name: dict[str, list[Candidate]] | None = None
        self._rows = sorted(
            (
                ((-total_score(one, speed_weight), -one.text_match, one.fitness.in_flight), one)
                for one in candidates
            ),
            key=_sort_key,
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def by_name(self) -> Mapping[str, Sequence[Candidate]]:
        """The candidates by agent name, in no order; made when it is first asked for."""
        if self._by_name is None:
            self._by_name = {}
            for _, one in self._rows:
                self._by_name.setdefault(one.agent.spec.name, []).append(one)
        return self._by_name

    def best_first(self, session_id: str) -> Iterator[Candidate]:
        """Yield the candidates, best first.

        Equal scores: the better text match, then fewer tasks in flight, then a hash of session and
        agent, which spreads sessions and keeps each where it was.
        """
        for _, tied in groupby(self._rows, key=_sort_key):
            group = [candidate for _, candidate in tied]
            if len(group) > 1:
                group.sort(key=lambda one: session_hash(session_id, one.agent.agent_id))
            yield from group


def _sort_key(row: tuple[tuple[float, float, int], Candidate]) -> tuple[float, float, int]:
    return row[0]


def session_hash(session_id: str, identity: str) -> bytes:
    """Return what ranks equals for a session: the same in every process and on every machine."""
    return blake2b(f"{session_id}\0{identity}".encode(), digest_size=8).digest()


def least_loaded(
    fresh: Iterable[_Running], max_concurrency: int, session_id: str
) -> _Running | None:
    """Return the instance with a free slot and the smallest load; None if there is none.

    Equals are told apart by a hash of session and instance. An instance that is stalled, or being
    drained, is no choice.
    """
    usable = [
        one
        for one in fresh
        if not one.stalled and one.load < max_concurrency and not one.instance.draining
    ]
    if len(usable) > 1:
        fewest = min(one.load for one in usable)
        usable = [one for one in usable if one.load == fewest]
    return min(
        usable,
        key=lambda one: session_hash(session_id, one.instance.instance_id),
        default=None,
    )
