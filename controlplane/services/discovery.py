"""Finding agents: lists, discovery by what they can do, and the best one for a job.

Everything is answered from the read model, without a store round trip, and reflects one moment: the
only awaits are the wait for a revision that the caller asks for, and a pause between two shares of
a large fleet that has hardly anybody free.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import FieldViolation, InvalidArgument, NoCandidate
from controlplane.domain.routing import Candidate, Score, least_loaded, score
from controlplane.domain.selection import AgentFilter, text_problem
from controlplane.services.near_misses import near_misses
from controlplane.services.ports import Position
from controlplane.services.ranking import Job, Ranked, Rankings, Rejected
from controlplane.services.read_model import AgentEntry, LiveInstance, NamespaceView, ReadModel

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

_ACTIVE = frozenset({AgentStatus.ACTIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPage:
    """One page of agents, ordered by agent_id. Render it before the next await: entries live."""

    entries: tuple[AgentEntry, ...]
    total: int
    """How many agents match in all."""
    next_after_id: str
    """`after_id` of the next page; empty on the last."""
    position: Position
    """What the page reflects."""


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
        matches = view.index.candidates(wanted)
        ids = matches.page(after_id, page_size + 1)
        agents = view.agents
        return AgentPage(
            entries=tuple([agents[agent_id] for agent_id in ids[:page_size]]),
            total=len(matches),
            next_after_id=ids[page_size - 1] if len(ids) > page_size else "",
            position=view.position,
        )

    async def discover(
        self,
        namespace: str,
        wanted: AgentFilter,
        *,
        page_size: int,
        after_id: str = "",
        min_revision: int = 0,
    ) -> AgentPage:
        """Return agents that match a valid filter; ACTIVE ones if it names no status.

        Everything else is as in `list_agents`.
        """
        if not wanted.statuses:
            wanted = replace(wanted, statuses=_ACTIVE)
        return await self.list_agents(
            namespace, wanted, page_size=page_size, after_id=after_id, min_revision=min_revision
        )

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
        step, anew = 0, False
        while True:
            ranked = self._rankings.ranked(view, job, query.session_id, step=step, anew=anew)
            best = _best_of(ranked, query)
            instance = _instance_of(view, best, query.session_id)
            if instance is not None:
                return _answer(view, wanted, ranked, best, instance, query)
            if best and not anew:
                # Loads moved on since the ranking was made, and the winner is full now.
                anew = True
                continue
            if ranked.last:
                raise _refusal(view, _rejected(view, wanted, ranked, query.max_explained))
            # Others have their turn between two shares: in a large fleet at its limit there are
            # many, and the answer must be of one moment, so it is read anew.
            await asyncio.sleep(0)
            view = self._read_model.view(query.namespace)
            step, anew = step + 1, False

    async def _view(self, namespace: str, min_revision: int) -> NamespaceView:
        if min_revision:
            return await self._read_model.at_least(namespace, min_revision)
        return self._read_model.view(namespace)


def _best_of(ranked: Ranked, query: BestAgentQuery) -> list[Candidate]:
    """Return the winner, if there is one, and the runners-up to report."""
    return list(islice(ranked.ranking.best_first(query.session_id), query.max_explained + 1))


def _instance_of(
    view: NamespaceView, best: Sequence[Candidate], session_id: str
) -> LiveInstance | None:
    if not best:
        return None
    entry = view.agents[best[0].agent.agent_id]
    slots = entry.agent.spec.max_concurrency
    return least_loaded(entry.fresh_instances(), slots, session_id)


def _answer(
    view: NamespaceView,
    wanted: AgentFilter,
    ranked: Ranked,
    best: Sequence[Candidate],
    instance: LiveInstance,
    query: BestAgentQuery,
) -> BestAgent:
    first, *others = [score(one, ranked.ranking.speed_weight) for one in best]
    return BestAgent(
        entry=view.agents[first.agent_id],
        instance=instance,
        score=first,
        runners_up=tuple(others),
        rejected=_rejected(view, wanted, ranked, query.max_explained),
        candidate_count=len(ranked.ranking),
        position=view.position,
    )


def _refusal(view: NamespaceView, rejected: Sequence[Rejected]) -> NoCandidate:
    return NoCandidate(
        f"no active agent of namespace {view.name!r} qualifies",
        [
            (one.agent_id, f"{one.name_version} {one.detail}")
            for one in rejected[:MISSES_IN_A_REFUSAL]
        ],
    )


def _rejected(
    view: NamespaceView, wanted: AgentFilter, ranked: Ranked, limit: int
) -> tuple[Rejected, ...]:
    """Return who is no candidate: those that match and are busy first, then who almost match."""
    rejected = list(ranked.busy[:limit])
    if len(rejected) < limit:
        for agent_id, reason, detail in near_misses(view.index, wanted, limit - len(rejected)):
            name_version = view.agents[agent_id].agent.spec.name_version
            rejected.append(Rejected(agent_id, name_version, reason, detail))
    return tuple(rejected)
