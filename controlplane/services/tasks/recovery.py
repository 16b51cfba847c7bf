"""Takes tasks back from those who no longer work on them, and ends those that cannot be done.

A sweep looks at what is due by time, at the leases of agents that changed, and at what is wanted of
agents that were stopped; never at all tasks. Every replica sweeps; each move is one commit that
holds what it was decided on, so it happens once.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from controlplane.domain.agents import Agent
from controlplane.domain.tasks import Task
from controlplane.services.families import PLANE, caught_up
from controlplane.services.ports import (
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Require,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.tasks.change import Assigner
from controlplane.services.tasks.homes import Fate, home_of
from controlplane.services.tasks.moves import Move, deactivated, homed, lost, overdue, unaccepted
from controlplane.services.tasks.upkeep import TaskUpkeep
from controlplane.services.tasks.waiting import Want, want_of

SWEEP_LIMIT: Final = 200
"""Tasks moved in one sweep, the oldest first: 2-4 ms of the event loop, 800 tasks per second."""

AGENTS_PER_SWEEP: Final = 2_000
"""Agents that changed whose leases one sweep looks at: about a millisecond."""

WANTS_PER_SWEEP: Final = 100
"""Wants whose agents one sweep looks at, after agents changed: 2-3 ms where all are new."""

FULL_LOOK_SECONDS: Final = 30.0
"""Time between two looks at all leases, as if every agent had changed: after a store that lost
writes, what changed is not known."""

MAX_ROUNDS: Final = 5
"""Rounds of decide and commit before a contested hand-over is left to the sweeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """What became of the tasks of an agent that was stopped."""

    requeued: int = 0
    """They wait for another agent, or are assigned to one already."""
    failed: int = 0
    """Nobody else could take them."""


@dataclass(slots=True)
class _Namespace:
    """How far a namespace was looked at."""

    epoch: str = ""
    revision: int = -1
    """Changes of agents up to here are in `agents`, or dealt with."""
    full_look_at: float = 0.0
    """Monotonic seconds."""
    agents: dict[str, None] = field(default_factory=dict)
    """agent_id of those whose leases are to be looked at."""
    wanted_version: tuple[str, int, int] = ("", -1, -1)
    wants: deque[Want] = field(default_factory=deque)
    """Wants whose agents are to be looked at."""


class TaskRecovery:
    """Sweeps namespaces. Belongs to one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        assigner: Assigner,
        clock: Clock,
        *,
        accept_ms: int,
        retention_ms: int,
        pin_ms: int,
    ) -> None:
        """Prepare to sweep.

        Args:
            ledger: Where moves are written. It should return when they are visible here (as a
                `VisibleLedger` does), so that the assigner sees what it is woken for.
            read_model: What is known.
            assigner: Woken when tasks wait again.
            clock: The store's time.
            accept_ms: How long an assignment may go without being accepted.
            retention_ms: How long tasks that have ended are kept.
            pin_ms: How long a session without tasks keeps its pin.
        """
        self._ledger = ledger
        self._read_model = read_model
        self._assigner = assigner
        self._clock = clock
        self._accept_ms = accept_ms
        self._upkeep = TaskUpkeep(ledger, clock, retention_ms=retention_ms, pin_ms=pin_ms)
        self._namespaces: dict[str, _Namespace] = {}
        self.moved = 0
        """Tasks taken back or ended by this replica since its start."""

    async def sweep(self, namespace: str) -> int:
        """Do what is due, within bounds; return how many tasks were moved.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        view = self._read_model.view(namespace)
        known = self._namespaces.setdefault(namespace, _Namespace())
        now_ms = self._clock.store_ms()
        moves: dict[str, Move] = {}
        self._plan_limits(view, now_ms, moves)
        self._plan_lost(view, known, now_ms, moves)
        self._plan_homes(view, known, now_ms, moves)
        moved = await self._write(namespace, list(moves.values()))
        await self._upkeep.round(self._read_model.view(namespace))
        return moved

    def _plan_limits(self, view: NamespaceView, now_ms: int, moves: dict[str, Move]) -> None:
        index = view.work.tasks
        for task_id in index.limits.due(now_ms, SWEEP_LIMIT):
            _add(moves, overdue(index.all[task_id], now_ms))
        for task_id in index.unaccepted.due(now_ms - self._accept_ms, SWEEP_LIMIT - len(moves)):
            task = index.all[task_id]
            # A holder that is gone is the better reason.
            _add(moves, lost(view, task, now_ms) or unaccepted(task, now_ms))

    def _plan_lost(
        self, view: NamespaceView, known: _Namespace, now_ms: int, moves: dict[str, Move]
    ) -> None:
        """Plan what becomes of leases of agents that changed, or whose instances did."""
        index = view.work.tasks
        now = self._clock.monotonic()
        if now >= known.full_look_at:
            known.full_look_at = now + FULL_LOOK_SECONDS
            known.revision = -1
        known.agents.update(dict.fromkeys(_changed_holders(view, known)))
        for agent_id in list(known.agents)[:AGENTS_PER_SWEEP]:
            del known.agents[agent_id]
            for task in index.held_of_agent(agent_id).values():
                move = lost(view, task, now_ms)
                if move is None:
                    continue
                # Whether it comes about or not: the next sweep looks again.
                known.agents[agent_id] = None
                if len(moves) >= SWEEP_LIMIT:
                    return
                _add(moves, move)

    def _plan_homes(
        self, view: NamespaceView, known: _Namespace, now_ms: int, moves: dict[str, Move]
    ) -> None:
        """Plan what becomes of tasks that wait for agents which were stopped."""
        waiting = view.work.tasks.waiting
        version = (view.position.epoch, view.agents_revision, waiting.wants_version)
        if known.wanted_version != version and not known.wants:
            known.wanted_version = version
            known.wants.extend(waiting.by_want)
        for _ in range(min(len(known.wants), WANTS_PER_SWEEP)):
            want = known.wants.popleft()
            groups = waiting.by_want.get(want)
            home = home_of(view, want) if groups is not None else None
            if groups is None or home is None or home.fate is Fate.WAIT:
                continue
            known.wants.append(want)
            for task in (task for group in groups.values() for task in group.tasks()):
                if len(moves) >= SWEEP_LIMIT:
                    return
                _add(moves, homed(task, home, now_ms))

    async def _write(self, namespace: str, moves: Sequence[Move]) -> int:
        if not moves:
            return 0
        results = await self._ledger.commit_many(
            [move.transaction(namespace, method="Sweep") for move in moves]
        )
        done = [m for m, r in zip(moves, results, strict=True) if isinstance(r, Committed)]
        self._note(namespace, done)
        _raise_failure(results)
        return len(done)

    def _note(self, namespace: str, done: Sequence[Move]) -> None:
        self.moved += len(done)
        # Slots are free again, whatever became of the tasks.
        if done:
            self._assigner.wake(namespace)

    async def hand_over(
        self, namespace: str, agent_id: str, *, reason: str, actor: str = PLANE
    ) -> HandedOver:
        """Find another home for the tasks of an agent that an operator has stopped.

        Its leases are taken back; they and the tasks that wait for it go to other agents, or fail
        (see `task_homes.home_of`). `reason` and `actor` are for the audit. Does nothing for an
        agent that was not stopped. What is contested for long is left to the sweeps.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: the store did not answer; sweeps finish what was begun.
        """
        (record,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        if record is None or not record.value.is_stopped:
            return HandedOver()
        agent: Agent = record.value
        view = await caught_up(self._read_model, namespace, record.revision)
        todo = _concerned(view, agent)
        requeued = failed = 0
        for _ in range(MAX_ROUNDS):
            contested: list[str] = []
            for start in range(0, len(todo), SWEEP_LIMIT):
                view = self._read_model.view(namespace)
                moves = self._hand_over_moves(view, agent, todo[start : start + SWEEP_LIMIT])
                results = await self._ledger.commit_many(
                    [
                        move.transaction(namespace, method="Deactivate", actor=actor, reason=reason)
                        for move in moves
                    ]
                )
                pairs = list(zip(moves, results, strict=True))
                done = [move for move, result in pairs if isinstance(result, Committed)]
                self._note(namespace, done)
                requeued += sum(move.requeues for move in done)
                failed += sum(not move.requeues for move in done)
                _raise_failure(results)
                contested += [m.before.task_id for m, r in pairs if isinstance(r, ConditionFailed)]
            if not contested:
                break
            todo = await self._stored(namespace, contested)
        return HandedOver(requeued=requeued, failed=failed)

    def _hand_over_moves(
        self, view: NamespaceView, agent: Agent, tasks: Iterable[Task]
    ) -> list[Move]:
        now_ms = self._clock.store_ms()
        held = Require(Collection.AGENTS, agent.agent_id, Expect(revision=agent.revision))
        moves: list[Move] = []
        for task in tasks:
            if task.state.is_held and task.agent_id == agent.agent_id:
                moves.append(deactivated(view, task, held, agent.status_reason, now_ms))
            else:
                move = homed(task, home_of(view, want_of(task)), now_ms)
                if move is not None:
                    moves.append(move)
        return moves

    async def _stored(self, namespace: str, task_ids: Sequence[str]) -> list[Task]:
        records = await self._ledger.read(namespace, Collection.TASKS, task_ids)
        return [record.value for record in records if record is not None]


def _concerned(view: NamespaceView, agent: Agent) -> list[Task]:
    """Return the tasks that an agent holds, and those that wait and could have gone to it."""
    index = view.work.tasks
    tasks = list(index.held_of_agent(agent.agent_id).values())
    capabilities = frozenset(agent.spec.capabilities)
    for want, groups in index.waiting.by_want.items():
        meant = (
            want.agent_name == agent.spec.name
            if want.agent_name
            else (capabilities.issuperset(want.capabilities))
        )
        if meant and home_of(view, want).fate is not Fate.WAIT:
            tasks.extend(task for group in groups.values() for task in group.tasks())
    return tasks


def _changed_holders(view: NamespaceView, known: _Namespace) -> list[str]:
    """Return the agents that hold leases and may have changed since the last look."""
    position = view.position
    changed = view.index.journal.since(known.revision) if known.epoch == position.epoch else None
    known.epoch, known.revision = position.epoch, position.revision
    index = view.work.tasks
    if changed is None:
        return list(index.holding_agents())
    return [agent_id for agent_id in changed if index.held_of_agent(agent_id)]


def _add(moves: dict[str, Move], move: Move | None) -> None:
    if move is not None:
        moves.setdefault(move.before.task_id, move)


def _raise_failure(results: Iterable[Committed | Exception]) -> None:
    """Raise what is neither success nor contention."""
    for result in results:
        if not isinstance(result, Committed | ConditionFailed):
            raise result
