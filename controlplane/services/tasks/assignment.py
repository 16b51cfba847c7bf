"""Gives waiting tasks to instances with a free slot, in turn between submitters.

Every replica may assign every task; nobody leads. An assignment is one commit that holds the task,
the agent, the instance and its task stream to what was seen, and counts a slot that must be free.
So whoever decided on old knowledge loses, and nothing is assigned twice or beyond capacity.

A commit that is lost is wasted work, so replicas keep out of each other's way: what was submitted
elsewhere is left to that replica for a moment, and one that lost begins its next passes at random
among the first that wait. Order is therefore exact for one replica, and nearly so for several.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Final

from controlplane.domain.task_rules import assigned
from controlplane.domain.tasks import Task
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Require,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.tasks.placement import Place, Placement, Reservations
from controlplane.services.tasks.steps import task_steps
from controlplane.services.tasks.turns import Turns
from controlplane.services.tasks.waiting import Order, WaitingGroup, Want, order_of

LOOK_AHEAD: Final = 100
"""Tasks of one submitter whose route has no room that are passed over in one pass. Where the next
pass goes on is remembered, so they hide nothing for long."""

GROUPS_PER_PASS: Final = 256
"""Different wants of one submitter that one pass looks at; those nobody can serve come last in the
next."""

LOOKS_AT_ONCE: Final = 200
"""Tasks looked at without a pause: 2-4 ms of the event loop, and as many commits in one batch."""

SCORED_PER_LOOK: Final = 4
"""Agents scored in the time of looking at one task."""

PASS_LIMIT: Final = 1_000
"""Tasks assigned in one pass; if more can be, the namespace is woken again behind the others."""

_METHOD: Final = "Assign"


@dataclass(slots=True)
class _Planned:
    """One assignment before it is written."""

    before: Task
    after: Task
    place: Place


@dataclass(slots=True)
class _Line:
    """Where one submitter stands in a pass."""

    heads: list[tuple[Order, Want]] = field(default_factory=list)
    """A heap of the next task of each group."""
    look_ahead: int = LOOK_AHEAD
    passed_over: dict[Want, Order] = field(default_factory=dict)
    """Last task of each group for which its route had no room."""


@dataclass(slots=True)
class _Namespace:
    """What is remembered of a namespace between passes."""

    reservations: Reservations = field(default_factory=Reservations)
    cursors: dict[tuple[str, Want], Order] = field(default_factory=dict)
    """Last task that was passed over, of groups that look-ahead has left off."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    turns: Turns = field(default_factory=Turns)


class TaskAssigner:
    """Assigns tasks, and remembers which namespaces ask for it. Belongs to one event loop."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, clock: Clock) -> None:
        """Assign in `ledger` what `read_model` shows."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._namespaces: dict[str, _Namespace] = {}
        self._woken: dict[str, None] = {}
        self._bell = asyncio.Event()
        self.assigned = 0
        """Tasks assigned by this replica since its start."""
        self.scored = 0
        """Agents scored: what passes have cost."""
        self.contested = 0
        """Assignments that failed because something had changed."""
        self.left_to_others = 0
        """Looks at tasks that another replica is about to assign."""

    def wake(self, namespace: str, made: Iterable[str] = ()) -> None:
        """Be told that a task waits or a slot is free; returns at once.

        `made` are tasks that this replica has just taken in: it has the first turn at them.
        """
        if made:
            self._known(namespace).turns.take_in(made, self._clock.store_ms())
        self._woken[namespace] = None
        self._bell.set()

    async def next_woken(self) -> str:
        """Wait for a namespace that was woken; the one that waits longest comes first."""
        while not self._woken:
            self._bell.clear()
            await self._bell.wait()
        namespace = next(iter(self._woken))
        del self._woken[namespace]
        return namespace

    async def assign(self, namespace: str) -> int:
        """Assign what can be assigned now; return how many tasks were.

        Wakes the namespace again if there is more to do than fits into one pass.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        known = self._known(namespace)
        async with known.lock:
            one = _Pass(self, namespace, known)
            contested = self.contested
            done = 0
            try:
                done = await one.run()
            finally:
                self.scored += one.scored
                self.left_to_others += one.left_to_others
                lost = self.contested - contested
                known.turns.note_pass(lost=lost, won=done, now=self._clock.monotonic())
            return done

    def _known(self, namespace: str) -> "_Namespace":
        known = self._namespaces.get(namespace)
        if known is None:
            known = self._namespaces[namespace] = _Namespace()
        return known

    async def commit(
        self, view: NamespaceView, planned: Sequence[_Planned], reservations: Reservations
    ) -> int:
        """Write assignments; return how many came about."""
        transactions = [_transaction(view.name, one) for one in planned]
        try:
            results = await self._ledger.commit_many(transactions)
        except BaseException:
            for one in planned:
                reservations.release(one.before.task_id)
            raise
        done = 0
        failure: Exception | None = None
        for one, result in zip(planned, results, strict=True):
            task_id = one.before.task_id
            if isinstance(result, Committed):
                now = self._clock.monotonic()
                reservations.commit(task_id, result.revision, view.position.epoch, now)
                done += 1
                continue
            reservations.release(task_id)
            if isinstance(result, ConditionFailed):
                self.contested += 1
            else:
                failure = result
        self.assigned += done
        if failure is not None:
            raise failure
        return done

    def now_ms(self) -> int:
        """Return the store's time."""
        return self._clock.store_ms()

    def view_of(self, namespace: str, reservations: Reservations) -> NamespaceView:
        """Return the newest view, with the reservations that it does not show yet."""
        view = self._read_model.view(namespace)
        reservations.settle(view, self._clock.monotonic())
        return view


class _Pass:
    """One pass over the tasks that wait in a namespace."""

    def __init__(self, assigner: TaskAssigner, namespace: str, known: _Namespace) -> None:
        self._assigner = assigner
        self._namespace = namespace
        self._known = known
        self._view = assigner.view_of(namespace, known.reservations)
        self._placement = Placement(known.reservations)
        self._lines: dict[str, _Line] = {}
        self._looks = 0
        self._exhausted: set[Want] = set()
        self._left_out = False
        self.left_to_others = 0
        """Tasks that another replica is about to assign."""

    @property
    def scored(self) -> int:
        """Return how many agents were scored."""
        return self._placement.scored

    async def run(self) -> int:
        """Assign until nothing more can be, or enough was; return how many tasks were."""
        waiting = self._view.work.tasks.waiting
        now_ms = self._assigner.now_ms()
        waiting.resume(now_ms)
        self._known.turns.forget(now_ms)
        turns = deque(waiting.by_submitter)
        if len(turns) > 1:
            turns.rotate(-self._known.turns.left_out())
        for submitter, want in list(self._known.cursors):
            if submitter not in waiting.by_want.get(want, {}):
                del self._known.cursors[submitter, want]
        done = 0
        while turns and done < PASS_LIMIT:
            self._view = self._assigner.view_of(self._namespace, self._known.reservations)
            self._placement.look(self._view)
            planned = self._plan_some(turns)
            if planned:
                done += await self._assigner.commit(self._view, planned, self._known.reservations)
            else:
                await asyncio.sleep(0)
        if turns or (self._left_out and done):
            self._assigner.wake(self._namespace)
        return done

    def _plan_some(self, turns: deque[str]) -> list[_Planned]:
        """Plan in turn between submitters, for as long as the event loop may be held."""
        planned: list[_Planned] = []
        scored = self._placement.scored
        self._looks = 0
        while turns and self._looks + (self._placement.scored - scored) // SCORED_PER_LOOK < (
            LOOKS_AT_ONCE
        ):
            submitter = turns.popleft()
            one = self._turn(submitter)
            if one is not None:
                planned.append(one)
                turns.append(submitter)
                self._view.work.tasks.waiting.served(submitter)
            elif self._is_all_exhausted():
                turns.clear()
                for name, line in self._lines.items():
                    self._remember(name, line)
        return planned

    def _is_all_exhausted(self) -> bool:
        """Whether nobody has room for anything that is wanted: no further submitter need be asked.

        There may be as many submitters as tasks, but wants are few.
        """
        wanted = self._view.work.tasks.waiting.by_want
        return len(self._exhausted) >= len(wanted) and self._exhausted.issuperset(wanted)

    def _turn(self, submitter: str) -> _Planned | None:
        """Plan the first task of a submitter that somebody can take; None: there is none left."""
        waiting = self._view.work.tasks.waiting
        line = self._line(submitter)
        now_ms = self._assigner.now_ms()
        while line.heads and line.look_ahead:
            order, want = heappop(line.heads)
            self._looks += 1
            group = waiting.by_submitter.get(submitter, {}).get(want)
            if group is None:
                continue
            if self._placement.is_exhausted(want):
                waiting.put_off(submitter, want)
                self._exhausted.add(want)
                continue
            task = group.ready.get(order[1])
            if task is None or task.task_id in self._known.reservations:
                pass  # It is no longer there, or as good as assigned.
            elif self._known.turns.is_of_others(task, now_ms):
                self.left_to_others += 1
            else:
                place = self._placement.place(task, want)
                if place is not None:
                    _push_next(line.heads, group, order, want)
                    return _planned(task, place, now_ms)
                line.look_ahead -= 1
                line.passed_over[want] = order
            _push_next(line.heads, group, order, want)
        self._remember(submitter, line)
        return None

    def _line(self, submitter: str) -> _Line:
        """Return where a submitter stands; at its first turn, at the first task of each group."""
        line = self._lines.get(submitter)
        if line is None:
            line = self._lines[submitter] = _Line()
            groups = self._view.work.tasks.waiting.by_submitter.get(submitter, {})
            for want, group in islice(groups.items(), GROUPS_PER_PASS):
                begin = self._known.cursors.pop((submitter, want), None)
                if begin is not None and group.ready.after(begin) is None:
                    begin = None
                begin = self._begin_behind(group, begin)
                _push_next(line.heads, group, begin, want)
        return line

    def _begin_behind(self, group: WaitingGroup, begin: Order | None) -> Order | None:
        """Leave out some of the first tasks, if this replica has lost some to others lately.

        A queue that is not much longer keeps its order: its end is no better a place to meet.
        """
        if len(group.ready) <= 2 * self._known.turns.spread:
            return begin
        for _ in range(self._known.turns.left_out()):
            task = group.ready.after(begin)
            if task is None:
                break
            begin = order_of(task)
            self._left_out = True
        return begin

    def _remember(self, submitter: str, line: _Line) -> None:
        """Let the next pass go on behind what was passed over, where look-ahead ended."""
        for _, want in line.heads:
            order = line.passed_over.get(want)
            if order is not None:
                self._known.cursors[submitter, want] = order


def _push_next(
    heads: list[tuple[Order, Want]], group: WaitingGroup, order: Order | None, want: Want
) -> None:
    task = group.ready.after(order)
    if task is not None:
        heappush(heads, (order_of(task), want))


def _planned(task: Task, place: Place, now_ms: int) -> _Planned:
    after = assigned(
        task,
        agent_id=place.agent.agent_id,
        instance_id=place.instance.instance_id,
        generation=place.instance.generation,
        now_ms=now_ms,
    )
    return _Planned(task, after, place)


def _transaction(namespace: str, planned: _Planned) -> Transaction:
    """Return the commit of an assignment: it holds everything that was decided on."""
    agent, instance, stream = planned.place
    after = planned.after
    slots = agent.spec.max_concurrency
    steps = (
        *task_steps(planned.before, after, slots=slots),
        _unchanged(Collection.AGENTS, agent.agent_id, agent.revision),
        _unchanged(Collection.INSTANCES, instance.instance_id, instance.revision),
        _unchanged(Collection.TASK_STREAMS, stream.instance_id, stream.revision),
    )
    audit = AuditEntry(
        actor=PLANE,
        method=_METHOD,
        object=f"tasks/{after.task_id}",
        event="task.assigned",
        details={
            "agent_id": agent.agent_id,
            "instance_id": instance.instance_id,
            "epoch": str(after.epoch),
        },
    )
    return Transaction(namespace=namespace, steps=steps, audit=audit)


def _unchanged(collection: Collection, key: str, revision: int) -> Require:
    return Require(collection, key, Expect(revision=revision))
