"""What instances are owed: to drain, to take work again, to stop.

Worked out from the read model alone, so that a decision made at any replica reaches the instances
that are connected to this one. Where nothing is commanded, which is nearly always, asking costs a
comparison per message. Streams that are open are told at once: `Ear` is called by the follower's
wake-up, and every stream is told of its own instances only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.agents import Agent, Instance
from controlplane.domain.drains import Drain, DrainPhase
from controlplane.services.hub import Subscription, agents_topic, stops_topic
from controlplane.services.lifecycle.drain_targets import WORKING, still_marked, target_of
from controlplane.services.lifecycle.stop_answers import has_answered
from controlplane.services.ports import Clock
from controlplane.services.read_model import NamespaceView, ReadModel

RESUME_MS: Final = 300_000
"""How long an instance is told that it may take work again, 5 min: longer than the silence that any
instance is granted by default, so that each hears it in an answer even if its stream was away."""

LOOK_AGAIN_SECONDS: Final = 0.1
"""Least time between two looks at all drains and stops where no record that an instance follows has
changed; routes and sessions share their version."""

REFRESH_SECONDS: Final = 1.0
"""How often what is owed is worked out anew while anything is: instances join and answer."""


class CommandKind(StrEnum):
    """What an instance should do; names as in the contract."""

    DRAIN = "DRAIN"
    """Take no new work and finish what is in flight."""
    STOP = "STOP"
    """Stop now: call off all work and take no more."""
    RESUME = "RESUME"
    """Take work again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A command that an instance is to be told, in every answer, until it no longer holds."""

    instance_id: str
    kind: CommandKind
    reason: str = ""
    stop_id: str = ""
    """With STOP: what the instance sends back."""
    deadline_ms: int = 0
    """With DRAIN: when the classes of the tasks decide, on the store's clock; 0: not known."""
    urgent: bool = False
    """Somebody waits for what it says next: it is asked to beat every second."""


Board = Mapping[str, Owed]
"""What is owed now, by instance_id. The most urgent command of each: STOP, DRAIN, RESUME."""

_NOTHING: Final[Board] = {}


@dataclass(slots=True)
class _Known:
    """What was worked out last for a namespace, and from what."""

    view: NamespaceView
    orders: int
    agents_revision: int
    looked_at: float
    board: Board


class Ear(Subscription):
    """Hears of changes at once instead of waiting for them; see `Commands.opened`."""

    __slots__ = ("_heard",)

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__(set())
        self._heard = heard

    def tell(self, topic: str) -> None:  # noqa: ARG002 - one of its topics is as good as another
        """Pass on that something changed."""
        self._heard()


Push = Callable[[], None]
"""Called when something is owed anew to instances of a stream; must not wait or raise."""


class Commands:
    """Knows what is owed, and which open stream carries whom. Belongs to one event loop."""

    def __init__(self, read_model: ReadModel, clock: Clock) -> None:
        self._read_model = read_model
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._finished: set[str] = set()
        """Stops that everybody has answered; nobody new is ever told."""
        self._carriers: dict[str, dict[str, Push]] = {}
        """namespace -> instance_id -> how to reach the stream it beats on"""
        self._ears: dict[str, Ear] = {}

    def board(self, view: NamespaceView) -> Board:
        """Return what is owed in a namespace now; empty nearly always."""
        known = self._known.get(view.name)
        if known is None or known.view is not view:
            return self._look(view)
        same = known.orders == _orders(view) and known.agents_revision == view.agents_revision
        if same and not known.board:
            return known.board
        age = self._clock.monotonic() - known.looked_at
        if age >= (REFRESH_SECONDS if same else LOOK_AGAIN_SECONDS):
            return self._look(view)
        return known.board

    def carried(self, namespace: str, instance_ids: Iterable[str], push: Push) -> None:
        """Note that these instances beat on the stream that `push` reaches; the newest one counts.

        The first stream of a namespace makes it listen to what changes there.
        """
        carriers = self._carriers.get(namespace)
        if carriers is None:
            carriers = self._carriers[namespace] = {}
            ear = self._ears[namespace] = Ear(lambda: self._heard(namespace))
            self._read_model.hub.extend(ear, (agents_topic(namespace), stops_topic(namespace)))
        for instance_id in instance_ids:
            carriers[instance_id] = push

    def closed(self, namespace: str, instance_ids: Iterable[str], push: Push) -> None:
        """Note that a stream has ended. Instances that beat elsewhere by now stay noted there."""
        carriers = self._carriers.get(namespace)
        if carriers is None:
            return
        for instance_id in instance_ids:
            if carriers.get(instance_id) == push:
                del carriers[instance_id]
        if not carriers:
            del self._carriers[namespace]
            ear = self._ears.pop(namespace)
            self._read_model.hub.withdraw(ear, tuple(ear.topics))

    def _heard(self, namespace: str) -> None:
        """Tell the streams whose instances are owed something else than before."""
        view = self._read_model.views().get(namespace)
        known = self._known.get(namespace)
        if view is None or (
            known is not None and known.view is view and known.orders == _orders(view)
        ):
            return
        before = known.board if known is not None else _NOTHING
        board = self._look(view)
        carriers = self._carriers.get(namespace, {})
        concerned = {
            push
            for name, owed in board.items()
            if owed != before.get(name) and (push := carriers.get(name)) is not None
        }
        for push in concerned:
            push()

    def _look(self, view: NamespaceView) -> Board:
        board: dict[str, Owed] = {}
        now_ms = self._clock.store_ms()
        for drain in view.work.drains.values():
            for owed in _owed_by_drain(view, drain, now_ms):
                known = board.get(owed.instance_id)
                if known is None or known.kind is CommandKind.RESUME:
                    board[owed.instance_id] = owed
        for owed in self._owed_by_stops(view):
            board[owed.instance_id] = owed
        looked_at = self._clock.monotonic()
        self._known[view.name] = _Known(view, _orders(view), view.agents_revision, looked_at, board)
        return board

    def _owed_by_stops(self, view: NamespaceView) -> Iterator[Owed]:
        for stop_id, stop in view.work.stops.items():
            if stop_id in self._finished:
                continue
            told = False
            for instance in _members(view, stop.agent_ids):
                name = instance.instance_id
                if instance.generation > stop.generation or has_answered(view, stop_id, name):
                    continue
                told = True
                yield Owed(
                    instance_id=name,
                    kind=CommandKind.STOP,
                    reason=stop.reason,
                    stop_id=stop_id,
                    urgent=True,
                )
            if not told and stop.settled:
                self._finished.add(stop_id)


def _orders(view: NamespaceView) -> int:
    """Return what changes with every drain and every stop."""
    return view.work.version


def _members(view: NamespaceView, agent_ids: Iterable[str]) -> Iterator[Instance]:
    for agent_id in agent_ids:
        entry = view.agents.get(agent_id)
        if entry is not None:
            for live in entry.instances.values():
                yield live.instance


def _owed_by_drain(view: NamespaceView, drain: Drain, now_ms: int) -> Iterator[Owed]:
    """Yield what the instances of a drain's target are to be told."""
    if drain.phase is DrainPhase.CANCELLED and now_ms - drain.ended_at_ms > RESUME_MS:
        return
    target = target_of(view, drain)
    agent = target.agent
    if agent is None or target.is_gone or (drain.instance_id and target.is_over):
        return
    if drain.phase is DrainPhase.DRAINING or still_marked(view, drain):
        kind = CommandKind.DRAIN
        if target.is_over:
            return
    elif _takes_work_again(agent, drain, now_ms):
        kind = CommandKind.RESUME
    else:
        return
    for live in target.instances:
        if drain.phase is DrainPhase.CANCELLED and live.instance.draining:
            continue
        yield Owed(
            instance_id=live.instance.instance_id,
            kind=kind,
            reason=drain.reason,
            deadline_ms=drain.deadline_at_ms if kind is CommandKind.DRAIN else 0,
            urgent=drain.phase is DrainPhase.DRAINING,
        )


def _takes_work_again(agent: Agent, drain: Drain, now_ms: int) -> bool:
    """Return whether the target was brought back a short while ago."""
    if agent.status not in WORKING or agent.draining:
        return False
    since = drain.ended_at_ms
    if drain.phase is DrainPhase.DRAINED:
        # It was drained to its end, and activated again after that.
        since = max(since, agent.updated_at_ms)
    return now_ms - since <= RESUME_MS
