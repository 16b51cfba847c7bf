"""Finding agents: lists, discovery by what they can do, and the best one for a job.

Everything is answered from the read model, without a store round trip, and reflects one moment: the
only awaits are the wait for a revision that the caller asks for, and a pause between two shares of
a large fleet that has hardly anybody free.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import islice
from secrets import token_hex
from typing import NamedTuple

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.errors import FieldViolation, InvalidArgument, NoCandidate
from controlplane.domain.routing import Candidate, Score, least_loaded, score
from controlplane.domain.selection import AgentFilter, text_problem
from controlplane.services.live_instances import AgentEntry, LiveInstance
from controlplane.services.near_misses import near_misses
from controlplane.services.ports import Position
from controlplane.services.ranking import Job, Ranked, Rankings, Rejected
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.routing.choice import RouteChoice, Routed, routed
from controlplane.services.routing.misses import rejection_of, sent_elsewhere, turned_away

DEFAULT_EXPLAINED = 10
"""Runners-up, and rejected agents, reported unless the caller says otherwise."""

MAX_EXPLAINED = 100
"""Runners-up, and rejected agents, reported at most."""

MAX_TASK_BYTES = 4096
"""Bytes of a task description."""

MAX_SESSION_BYTES = 256
"""Bytes of a session id."""

MISSES_IN_A_REFUSAL = 5
"""Nearest misses that NoCandidate carries: error details travel in trailers, which hold 8 KiB."""

_UNIT_BYTES = 8
"""Random bytes that a list without a session is dealt out by."""

_ACTIVE = frozenset({AgentStatus.ACTIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPage:
    """One page of agents, ordered by agent_id. Render it before the next await: entries live."""

    entries: tuple[AgentEntry, ...]
    total: int
    """How many agents match in all."""
    next_after_id: str
    """`after_id` of the next page; empty on the last. Opaque."""
    position: Position
    """What the page reflects."""
    dealt: bool = False
    """Whether versions were dealt out without a session: the next call may get another answer, so
    this one must not be given to anybody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAgentQuery:
    """What is to be done, and by whom it could be done."""

    namespace: str
    filter: AgentFilter = field(default_factory=AgentFilter)
    """Valid, and without statuses: only ACTIVE agents are candidates."""
    prefer_low_latency: bool = False
    task_description: str = ""
    """In words. Without required capabilities the text match with an agent is its
    `capability_match`; with them it decides between equal scores only. Only its 16 rarest words
    count."""
    session_id: str = ""
    max_explained: int = DEFAULT_EXPLAINED
    """Runners-up, and rejected agents, to report: 0-100."""
    min_revision: int = 0

    def validate(self) -> None:
        """Check everything but the filter, which is checked where it is made.

        Raises:
            InvalidArgument: one violation for every wrong field.
        """
        violations = []
        if self.filter.statuses:
            description = "must be empty: only ACTIVE agents are candidates"
            violations.append(FieldViolation("filter.statuses", description))
        for name, value, limit in (
            ("task_description", self.task_description, MAX_TASK_BYTES),
            ("session_id", self.session_id, MAX_SESSION_BYTES),
        ):
            problem = text_problem(value, limit)
            if problem is not None:
                violations.append(FieldViolation(name, problem))
        if not 0 <= self.max_explained <= MAX_EXPLAINED:
            violations.append(FieldViolation("max_explained", f"must be 0-{MAX_EXPLAINED}"))
        if violations:
            raise InvalidArgument(*violations)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAgent:
    """The winner, and why. Render it before the next await: entry and instance live."""

    entry: AgentEntry
    instance: LiveInstance
    """Its least loaded fresh instance."""
    score: Score
    runners_up: tuple[Score, ...]
    """Best first."""
    rejected: tuple[Rejected, ...]
    """Nearest misses first."""
    candidate_count: int
    """How many of the ranked agents qualified, the winner among them. All that match are ranked if
    they are at most 500; else a share of them."""
    position: Position
    route: RouteChoice | None = None
    """Why this version; None: the winner's name has no route."""
    dealt: bool = False
    """Whether versions were dealt out without a session: the next call may get another answer, so
    this one must not be given to anybody else."""


class Discovery:
    """Finds agents in the read model. Belongs to one event loop."""

    def __init__(self, read_model: ReadModel) -> None:
        self._read_model = read_model
        self._rankings = Rankings()

    async def list_agents(
        self,
        namespace: str,
        wanted: AgentFilter,
        *,
        page_size: int,
        after_id: str = "",
        min_revision: int = 0,
    ) -> AgentPage:
        """Return at most `page_size` agents of any status that match a valid filter.

        They are those behind `after_id`. Pages are not frozen: an agent that comes or goes between
        two pages may be on one of them or on none; every other one is on exactly one.

        Raises:
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._view(namespace, min_revision)
        return _page(view, wanted, page_size, after_id)

    async def discover(
        self,
        namespace: str,
        wanted: AgentFilter,
        *,
        page_size: int,
        after_id: str = "",
        min_revision: int = 0,
        include_draining: bool = False,
        route: bool = False,
        session_id: str = "",
    ) -> AgentPage:
        """Return agents that match a valid filter; ACTIVE ones if it names no status.

        Draining agents are left out unless they are to be included. With `route` only the version
        that the session goes to is returned of every name that has a route. Without a session each
        list is dealt out anew, and all its pages alike: the cursor carries what was dealt.
        Everything else is as in `list_agents`.

        Raises:
            InvalidArgument: the session id is too long.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        problem = text_problem(session_id, MAX_SESSION_BYTES)
        if problem is not None:
            raise InvalidArgument.of("session_id", problem)
        view = await self._view(namespace, min_revision)
        takes_work = not include_draining and bool(view.index.draining)
        if takes_work or not wanted.statuses:
            wanted = replace(wanted, statuses=wanted.statuses or _ACTIVE, takes_work=takes_work)
        if not route:
            return _page(view, wanted, page_size, after_id)
        return _routed_page(view, wanted, page_size, after_id, session_id)

    async def find_best(self, query: BestAgentQuery) -> BestAgent:
        """Return the ACTIVE agent that is fittest for a job, and why it was chosen.

        Raises:
            InvalidArgument: a field of the query is wrong.
            NoCandidate: nobody qualifies; carries the nearest misses.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        query.validate()
        view = await self._view(query.namespace, query.min_revision)
        wanted = replace(query.filter, statuses=_ACTIVE)
        job = Job(wanted, query.prefer_low_latency, query.task_description)
        search = _Search(view, wanted, query, _call(view, query))
        step, anew = 0, False
        while True:
            ranked = self._rankings.ranked(view, job, query.session_id, step=step, anew=anew)
            best = search.best_of(ranked)
            instance = _instance_of(view, best, query.session_id)
            if instance is not None:
                return search.answer(ranked, best, instance)
            if best and not anew:
                # Loads moved on since the ranking was made, and the winner is full now.
                anew = True
                continue
            if ranked.last:
                raise search.refusal(ranked)
            # Others have their turn between two shares: in a large fleet at its limit there are
            # many, and the answer must be of one moment, so it is read anew.
            await asyncio.sleep(0)
            view = self._read_model.view(query.namespace)
            search = _Search(view, wanted, query, _call(view, query, search.call))
            step, anew = step + 1, False

    async def _view(self, namespace: str, min_revision: int) -> NamespaceView:
        if min_revision:
            return await self._read_model.at_least(namespace, min_revision)
        return self._read_model.view(namespace)


def _page(
    view: NamespaceView,
    wanted: AgentFilter,
    page_size: int,
    after_id: str,
    left_out: AbstractSet[str] = frozenset(),
) -> AgentPage:
    """Return a page of those that match, without some of them."""
    matches = view.index.candidates(wanted)
    ids = matches.page(after_id, page_size + 1 + len(left_out))
    if left_out:
        ids = [agent_id for agent_id in ids if agent_id not in left_out]
    agents = view.agents
    return AgentPage(
        entries=tuple([agents[agent_id] for agent_id in ids[:page_size]]),
        total=len(matches) - len(left_out),
        next_after_id=ids[page_size - 1] if len(ids) > page_size else "",
        position=view.position,
    )


def _routed_page(
    view: NamespaceView, wanted: AgentFilter, page_size: int, cursor: str, session_id: str
) -> AgentPage:
    """Return a page of those that match and that the routes lead a session to."""
    # An agent_id has no slash. What a list was dealt outlives a moment without any route.
    after_id, _, unit = cursor.partition("/")
    if not view.work.routes:
        page = _page(view, wanted, page_size, after_id)
    else:
        unit = unit or ("" if session_id else token_hex(_UNIT_BYTES))
        call = routed(view, session_id=session_id, unit=unit)
        left_out = sent_elsewhere(view, view.index.candidates(wanted), call)
        page = _page(view, wanted, page_size, after_id, left_out)
        page = replace(page, dealt=bool(unit) and call.divided)
    if unit and page.next_after_id:
        page = replace(page, next_after_id=f"{page.next_after_id}/{unit}")
    return page


def _call(
    view: NamespaceView, query: BestAgentQuery, before: Routed | None = None
) -> Routed | None:
    """Return what the routes say to a query, for all its steps; None: there is no route."""
    if not view.work.routes:
        return None
    if before is not None:
        return before.seen_in(view)
    return routed(view, session_id=query.session_id)


class _Search(NamedTuple):
    """A query at one moment."""

    view: NamespaceView
    wanted: AgentFilter
    query: BestAgentQuery
    call: Routed | None
    """What the routes say to it; None: there is no route."""

    def best_of(self, ranked: Ranked) -> list[Candidate]:
        """Return the winner, if there is one, and the runners-up to report."""
        call, query = self.call, self.query
        best = ranked.ranking.best_first(query.session_id)
        if call is not None:
            # Only now: a ranking serves all sessions.
            best = (one for one in best if call(one.agent))
        return list(islice(best, query.max_explained + 1))

    def answer(
        self, ranked: Ranked, best: Sequence[Candidate], instance: LiveInstance
    ) -> BestAgent:
        """Return the winner, and why."""
        view, call = self.view, self.call
        first, *others = [score(one, ranked.ranking.speed_weight) for one in best]
        away = self._turned_away(ranked)
        return BestAgent(
            entry=view.agents[first.agent_id],
            instance=instance,
            score=first,
            runners_up=tuple(others),
            rejected=self._rejected(ranked, away),
            candidate_count=len(ranked.ranking) - len(away),
            position=view.position,
            route=call.choice(best[0].agent.spec.name) if call is not None else None,
            dealt=call is not None and call.divided and not self.query.session_id,
        )

    def refusal(self, ranked: Ranked) -> NoCandidate:
        """Return what tells the caller who came closest."""
        rejected = self._rejected(ranked, self._turned_away(ranked))
        return NoCandidate(
            f"no active agent of namespace {self.view.name!r} qualifies",
            [
                (one.agent_id, f"{one.name_version} {one.detail}")
                for one in rejected[:MISSES_IN_A_REFUSAL]
            ],
        )

    def _turned_away(self, ranked: Ranked) -> Sequence[Agent]:
        if self.call is None:
            return ()
        return turned_away(self.view, ranked.ranking, self.call)

    def _rejected(self, ranked: Ranked, away: Sequence[Agent]) -> tuple[Rejected, ...]:
        """Return who is no candidate.

        Those that could take the task if their route did not lead elsewhere come first, then those
        that match and cannot take it, then who almost match.
        """
        view, call, limit = self.view, self.call, self.query.max_explained
        rejected: list[Rejected] = []
        if call is not None:
            rejected += [rejection_of(view, agent, call) for agent in away[:limit]]
        rejected += ranked.busy[: limit - len(rejected)]
        left = limit - len(rejected)
        if left:
            for agent_id, reason, detail in near_misses(view.index, self.wanted, left):
                name_version = view.agents[agent_id].agent.spec.name_version
                rejected.append(Rejected(agent_id, name_version, reason, detail))
        return tuple(rejected)


def _instance_of(
    view: NamespaceView, best: Sequence[Candidate], session_id: str
) -> LiveInstance | None:
    if not best:
        return None
    entry = view.agents[best[0].agent.agent_id]
    slots = entry.agent.spec.max_concurrency
    return least_loaded(entry.fresh_instances(), slots, session_id)
