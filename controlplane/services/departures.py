"""Instances that leave: goodbyes on heartbeat streams, and Deregister."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from controlplane.domain.errors import InstanceFenced, NotReady, StoreUnavailable
from controlplane.domain.liveness import LivenessSettings, after_departure
from controlplane.services.beats import BeatOutcome, Outcome
from controlplane.services.families import (
    PLANE,
    Family,
    Move,
    caught_up,
    commit_each,
    families_called,
)
from controlplane.services.lifecycle.stop_answers import left_steps
from controlplane.services.ports import (
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Ledger,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

STORE_SECONDS: Final = 3.0
"""How long a goodbye waits for its commit: an SDK that stops waits five seconds for the answer."""

MAX_ROUNDS: Final = 5
"""Rounds of decide-commit before a contested departure is given up. The first decides on memory,
the others on the ledger, and each loses only to a commit that won."""

_EVENT: Final = "instance.deregistered"


@dataclass(frozen=True, slots=True)
class _Left:
    """What became of one who wanted to leave."""

    removed: bool = False
    newer: int = 0
    """Generation of the process that has taken over, if one has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the audit log says about it."""

    actor: str = PLANE
    method: str = "Heartbeat"
    reason: str = ""
    request: RequestKey | None = None
    answer: str = ""


@dataclass(slots=True)
class _Leaving:
    """Who still wants to leave (instance_id -> generation, 0: whichever is current)."""

    waiting: dict[str, int]
    left: dict[str, _Left] = field(default_factory=dict)

    def settle(self, instance_id: str, outcome: _Left) -> None:
        del self.waiting[instance_id]
        self.left[instance_id] = outcome


class Departures:
    """Removes instances, and lowers agents that lose their last fresh one with them.

    All who leave in one message ride in one round trip, those of one agent in one transaction.
    """

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, settings: LivenessSettings, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._read_model = read_model
        self._settings = settings

    async def say_goodbye(
        self, namespace: str, instances: Mapping[str, int]
    ) -> dict[str, BeatOutcome]:
        """Remove instances (instance_id -> generation) by their own wish; return the answers.

        No answer: it could not be written, and is to be said again.
        """
        leaving = _Leaving(dict(instances))
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._remove(namespace, leaving, _Said())
        except (StoreUnavailable, NotReady, TimeoutError):
            pass
        return {name: _answer(name, left) for name, left in leaving.left.items()}

    async def depart(
        self,
        namespace: str,
        instance_id: str,
        generation: int,
        *,
        actor: str,
        method: str,
        reason: str,
        request: RequestKey | None,
    ) -> bool:
        """Remove one instance; see `Liveness.depart`."""
        said = _Said(actor=actor, method=method, reason=reason, request=request, answer=instance_id)
        leaving = _Leaving({instance_id: generation})
        await self._remove(namespace, leaving, said)
        left = leaving.left.get(instance_id)
        if left is None:
            raise StoreUnavailable("too many callers change this agent at once")
        if left.newer:
            raise InstanceFenced(instance_id, generation=generation, current=left.newer)
        if left.removed or request is None:
            return left.removed
        return await self._ledger.find_request(namespace, request) is not None

    async def _remove(self, namespace: str, leaving: _Leaving, said: _Said) -> None:
        for attempt in range(MAX_ROUNDS):
            stored = attempt > 0
            wanted = await self._agents_of(namespace, leaving, stored=stored)
            if not wanted:
                return
            families = await families_called(
                self._ledger, self._read_model, namespace, wanted, stored=stored
            )
            await self._round(namespace, wanted, families, leaving, said)
            if not leaving.waiting:
                return

    async def _agents_of(
        self, namespace: str, leaving: _Leaving, *, stored: bool
    ) -> dict[str, list[str]]:
        """Return agent_id -> instances that may leave; settle those that are gone or fenced.

        From memory, where it knows them; the ledger is asked about the others, or (`stored`) all.
        """
        view = self._read_model.view(namespace)
        wanted: dict[str, list[str]] = {}
        unknown: list[str] = []
        for name, generation in leaving.waiting.items():
            live = view.instances.get(name)
            if stored or live is None or generation not in {0, live.instance.generation}:
                unknown.append(name)
            else:
                wanted.setdefault(live.instance.agent_id, []).append(name)
        if not unknown:
            return wanted
        records = await self._ledger.read(namespace, Collection.INSTANCES, unknown)
        newest = 0
        for name, record in zip(unknown, records, strict=True):
            if record is None:
                leaving.settle(name, _Left())
            elif leaving.waiting[name] not in {0, record.value.generation}:
                leaving.settle(name, _Left(newer=record.value.generation))
            else:
                newest = max(newest, record.revision)
                wanted.setdefault(record.value.agent_id, []).append(name)
        await caught_up(self._read_model, namespace, newest)
        return wanted

    async def _round(
        self,
        namespace: str,
        wanted: Mapping[str, list[str]],
        families: Mapping[str, Family],
        leaving: _Leaving,
        said: _Said,
    ) -> None:
        """Try once; whoever is contested goes on waiting."""
        planned: list[tuple[list[str], Transaction]] = []
        for agent_id, names in wanted.items():
            family = families.get(agent_id)
            if family is None:
                continue
            present = [name for name in names if name in family.instances]
            if present:
                planned.append((present, self._farewell(namespace, family, present, said)))
        results = await commit_each(self._ledger, [transaction for _, transaction in planned])
        for (names, _), result in zip(planned, results, strict=True):
            match result:
                case Committed():
                    for name in names:
                        leaving.settle(name, _Left(removed=True))
                case ConditionFailed():
                    pass
                case _:
                    raise result

    def _farewell(
        self, namespace: str, family: Family, names: list[str], said: _Said
    ) -> Transaction:
        """Return the transaction that takes some instances out of their family."""
        moves = dict.fromkeys(names)
        agent = after_departure(family.agent, family.states_after(moves))
        move = Move(family=family, instances=moves, agent=agent)
        audit = move.audit(said.method, event=_EVENT, actor=said.actor, reason=said.reason)
        if said.request is not None:
            audit = replace(audit, request_id=said.request.request_id)
        view, now_ms = self._read_model.view(namespace), self._clock.store_ms()
        answered = (
            step for name in names for step in left_steps(view, family.instances[name], now_ms)
        )
        return Transaction(
            namespace=namespace,
            steps=(*move.steps(self._settings, expired=False), *answered),
            audit=audit,
            request=said.request,
            answer=said.answer,
        )


def _answer(instance_id: str, left: _Left) -> BeatOutcome:
    if left.newer:
        why = f"generation {left.newer} has taken over"
        return BeatOutcome(instance_id, Outcome.FENCED, why)
    return BeatOutcome(instance_id, Outcome.REMOVED)
