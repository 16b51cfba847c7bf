"""Which version of an agent a session, or a task, goes to. Everything is in memory."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from secrets import randbelow
from weakref import WeakKeyDictionary

from controlplane.domain.agents import Agent, AgentStatus, InstanceState
from controlplane.domain.route_rules import (
    heaviest,
    nth_bucket,
    share_at,
    weight_of,
    whole_share,
)
from controlplane.domain.routes import WHOLE_BP, Route, SessionPin, bucket, pin_key
from controlplane.services.read_model import NamespaceView
from controlplane.services.work_view import WorkView

_WORKS_WITH_PINS = frozenset({AgentStatus.ACTIVE, AgentStatus.DEGRADED})


class RouteRule(StrEnum):
    """What decided."""

    WEIGHT = "WEIGHT"
    """The bucket is in the share of the version."""
    PIN = "PIN"
    """The version accepted the first task of the session."""
    FALLBACK = "FALLBACK"
    """The version that was meant takes no work now; this is the largest share of those that do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChoice:
    """The version, and why."""

    agent_id: str
    rule: RouteRule
    weight_bp: int
    """Its share in basis points; a pinned version may have none any more."""
    bucket: int
    """0-9,999: of the session, the unit, or the call."""
    rollout_id: str
    """Who owns the route; empty: nobody."""


class _Calls:
    """Counts calls without a session, by agent name; each name begins anywhere."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def next(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            # Replicas that all began with the same one would give it more than its share.
            number = randbelow(WHOLE_BP)
        self._numbers[name] = number + 1
        return number


_CALLS: MutableMapping[WorkView, _Calls] = WeakKeyDictionary()
"""By namespace, as long as its view lives. A matter of this process alone: not even replicas need
the same numbers, so it is neither known to the read model nor stored."""


def choose_version(
    view: NamespaceView, name: str, *, session_id: str, unit: str = ""
) -> RouteChoice | None:
    """Return which version of an agent name a session goes to; None: the name has no route.

    The session is the unit of the hash; without one it is `unit`, such as a task_id; without both
    every call is dealt out anew, evenly (`route_rules.nth_bucket`). A session that is pinned goes
    to the version it is pinned to, see `pin_holds`. If the version that is meant takes no work now
    (`takes_work`), the largest share of those that do is chosen; if none does, it stays chosen and
    has to be waited for.
    """
    route = view.work.routes.get(name)
    if route is None:
        return None
    return _choice(view, route, session_id, bucket_of(view, route, session_id or unit))


def bucket_of(view: NamespaceView, route: Route, unit: str) -> int:
    """Return the bucket of a unit; of the next call of the name if it is empty."""
    if unit:
        return bucket(route.salt, unit)
    calls = _CALLS.get(view.work)
    if calls is None:
        calls = _CALLS[view.work] = _Calls()
    return nth_bucket(calls.next(route.name))


def _choice(view: NamespaceView, route: Route, session_id: str, number: int) -> RouteChoice:
    by_weight = share_at(route.shares, number).agent_id
    agent_id, rule = _settled(view, route, session_id, by_weight)
    return RouteChoice(
        agent_id=agent_id,
        rule=rule,
        weight_bp=weight_of(route, agent_id),
        bucket=number,
        rollout_id=route.rollout_id,
    )


def _settled(
    view: NamespaceView, route: Route, session_id: str, by_weight: str
) -> tuple[str, RouteRule]:
    """Return the agent_id that takes a session, by its pin, its weight, or in its stead."""
    agent_id, rule = by_weight, RouteRule.WEIGHT
    pins = view.work.pins
    pin = pins.get(pin_key(route.name, session_id)) if session_id and pins else None
    if pin is not None and pin_holds(view, pin):
        agent_id, rule = pin.agent_id, RouteRule.PIN
    if not takes_work(view, agent_id):
        other = heaviest(route.shares, lambda one: takes_work(view, one))
        if other is not None:
            agent_id, rule = other.agent_id, RouteRule.FALLBACK
    return agent_id, rule


def pin_holds(view: NamespaceView, pin: SessionPin) -> bool:
    """Whether a session stays where it is pinned: the version is in service and takes new work.

    It need not have a share of new sessions any more. A version that drains has begun to leave: it
    would take no further task of the session, so the session moves on.
    """
    entry = view.agents.get(pin.agent_id)
    return entry is not None and entry.agent.status in _WORKS_WITH_PINS and not entry.agent.draining


def takes_work(view: NamespaceView, agent_id: str) -> bool:
    """Whether a version is ACTIVE, not draining, and has a fresh instance that is not either.

    A version whose slots are all taken does: its sessions wait, else a full canary would spill
    over.
    """
    entry = view.agents.get(agent_id)
    if entry is None or entry.agent.status is not AgentStatus.ACTIVE or entry.agent.draining:
        return False
    return any(
        live.instance.state is InstanceState.FRESH and not live.instance.draining
        for live in entry.instances.values()
    )


class Routed:
    """Answers for one call: may this version take it? Made by `routed`.

    What was dealt for a name stays for the whole call, so all versions of it hear the same answer.
    """

    def __init__(
        self,
        view: NamespaceView,
        session_id: str,
        unit: str,
        buckets: dict[str, int] | None = None,
    ) -> None:
        self._view = view
        self._session_id = session_id
        self._unit = session_id or unit
        self._buckets: dict[str, int] = {} if buckets is None else buckets
        self._choices: dict[str, RouteChoice | None] = {}
        self._leads: dict[str, str] = {}
        self.divided = False
        """Whether a route had a say so far that gives something to several versions: with another
        unit the answer may be another one."""

    def __call__(self, agent: Agent) -> bool:
        """Whether the route of the agent's name, if there is one, leads to this version."""
        name = agent.spec.name
        lead = self._leads.get(name)
        if lead is None:
            route = self._view.work.routes.get(name)
            if route is None:
                return True
            lead = self._leads[name] = self._lead(route)
        return lead == agent.agent_id

    def _lead(self, route: Route) -> str:
        whole = whole_share(route.shares)
        if whole is None:
            self.divided = True
            choice = self._choices[route.name] = self._choice(route)
            return choice.agent_id
        # Most routes are what a rollout left behind: they need no hash.
        return _settled(self._view, route, self._session_id, whole.agent_id)[0]

    def choice(self, name: str) -> RouteChoice | None:
        """Return what was chosen for a name; None: it has no route."""
        try:
            return self._choices[name]
        except KeyError:
            pass
        route = self._view.work.routes.get(name)
        choice = None if route is None else self._choice(route)
        self._choices[name] = choice
        return choice

    def _choice(self, route: Route) -> RouteChoice:
        number = self._buckets.get(route.name)
        if number is None:
            number = self._buckets[route.name] = bucket_of(self._view, route, self._unit)
        return _choice(self._view, route, self._session_id, number)

    def seen_in(self, view: NamespaceView) -> "Routed":
        """Return the same call as of another moment; what was dealt stays dealt."""
        return Routed(view, self._session_id, self._unit, self._buckets)


def routed(view: NamespaceView, *, session_id: str, unit: str = "") -> Routed:
    """Return what says, for one call, whether a version may take it; see `choose_version`."""
    return Routed(view, session_id, unit)


def version_of_routes(view: NamespaceView) -> int:
    """Return what an answer that honours routes depends on besides agents and loads.

    0 as long as nothing is routed: pins of sessions then change no answer.
    """
    return view.work.version if view.work.routes else 0
