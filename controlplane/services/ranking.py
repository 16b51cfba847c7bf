"""Rankings of the agents that qualify, made once per change and shared by all sessions.

Which agent is best depends on records and loads. These change a few times per second, while an
orchestrator asks for every task; what was made for a query is kept until either changes.
"""

from collections import OrderedDict
from collections.abc import Collection
from math import isqrt
from typing import NamedTuple

from controlplane.domain.agents import Agent
from controlplane.domain.routing import (
    LOW_LATENCY_SPEED_WEIGHT,
    SPEED_WEIGHT,
    Candidate,
    Fitness,
    Ranking,
    fitness,
    session_hash,
)
from controlplane.domain.selection import AgentFilter, RejectionReason
from controlplane.domain.text_ranking import relative
from controlplane.services.read_model import NamespaceView

MAX_RANKED = 500
"""Agents ranked at once: 2 ms of work in a large fleet, during which nobody else is served. Who is
best of so many is as good as the best."""

_KEPT_RANKINGS = 256
"""Rankings kept until a load or an agent changes: callers repeat a few queries."""

_MOST_KEPT_AGENTS = 100_000
"""Agents kept over all rankings; some 400 bytes each."""

_Version = tuple[int, int, int]


class Job(NamedTuple):
    """What is to be done, as far as it decides who is best."""

    wanted: AgentFilter
    prefer_low_latency: bool = False
    task_description: str = ""


class Rejected(NamedTuple):
    """One agent that is no candidate: the first condition that it fails, also in words."""

    agent_id: str
    name_version: str
    reason: RejectionReason
    detail: str


class Ranked(NamedTuple):
    """The agents that satisfy the conditions of a job, or a share of them."""

    ranking: Ranking
    busy: tuple[Rejected, ...]
    """Those that cannot take a task now: no free slot, or nothing but stalled instances."""
    last: bool
    """Whether no further step has agents that were not ranked yet."""

    @property
    def size(self) -> int:
        """How many agents it keeps in memory."""
        return len(self.ranking) + len(self.busy)


class _Share(NamedTuple):
    """Which of the matching agents are ranked."""

    number: int
    of: int
    best_texts: bool
    """Whether those with the best text match are ranked too, wherever they belong."""


_ALL = _Share(0, 1, best_texts=False)


class Rankings:
    """Makes rankings and keeps the latest. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[_Version, Ranked]] = OrderedDict()
        self._agents = 0

    def ranked(
        self, view: NamespaceView, job: Job, session_id: str, *, step: int = 0, anew: bool = False
    ) -> Ranked:
        """Return the ranking for a job with a valid filter, for a session.

        It is the one made since an agent or, to the accuracy of `load_version`, a load changed,
        unless it is to be made `anew`. If more than 500 agents match, a share of them is ranked,
        the one that belongs to the session; each further `step` ranks the next share, for when the
        one before has nobody who can take a task. With a task description a share is half as
        large, and in step 0 the 250 agents with the best text match are ranked with it.

        The text match is BM25 among all ACTIVE agents of the namespace, whether or not they match
        the filter: a word counts by how rare it is in the fleet. See `Search` for its bounds.
        """
        matching = len(view.index.candidates(job.wanted))
        if matching <= MAX_RANKED:
            return self._remembered(view, job, _ALL, last=True, anew=anew)
        shares = _prime_from(-(-matching // _share_size(job)))
        first = int.from_bytes(session_hash(session_id, "")) % shares
        best_texts = bool(job.task_description) and step == 0
        share = _Share((first + step) % shares, shares, best_texts)
        return self._remembered(view, job, share, last=step + 1 >= shares, anew=anew)

    def _remembered(
        self, view: NamespaceView, job: Job, share: _Share, *, last: bool, anew: bool
    ) -> Ranked:
        key = (view.name, job.wanted.key, job.prefer_low_latency, job.task_description, share, last)
        version = _version_of(view)
        known = self._kept.get(key)
        if known is not None and known[0] == version and not anew:
            self._kept.move_to_end(key)
            return known[1]
        ranked = self._rank(view, job, share, last=last)
        self._keep(key, version, ranked)
        return ranked

    def _rank(self, view: NamespaceView, job: Job, share: _Share, *, last: bool) -> Ranked:
        able: list[tuple[Agent, Fitness]] = []
        busy: list[Rejected] = []
        for agent_id in _entrants(view, job, share):
            entry = view.agents[agent_id]
            agent = entry.agent
            state = fitness(agent, entry.fresh_instances())
            if isinstance(state, Fitness):
                able.append((agent, state))
            else:
                busy.append(Rejected(agent_id, agent.spec.name_version, *state))
        busy.sort()
        by_text = bool(job.task_description) and not job.wanted.capabilities
        ranking = Ranking(
            [
                Candidate(agent, state, text if by_text else 1.0, text)
                for (agent, state), text in zip(able, _texts(view, job, able), strict=True)
            ],
            LOW_LATENCY_SPEED_WEIGHT if job.prefer_low_latency else SPEED_WEIGHT,
        )
        return Ranked(ranking, tuple(busy), last)

    def _keep(self, key: tuple[object, ...], version: _Version, ranked: Ranked) -> None:
        replaced = self._kept.pop(key, None)
        if replaced is not None:
            self._agents -= replaced[1].size
        self._kept[key] = version, ranked
        self._agents += ranked.size
        while len(self._kept) > _KEPT_RANKINGS or (
            self._agents > _MOST_KEPT_AGENTS and len(self._kept) > 1
        ):
            _, (_, dropped) = self._kept.popitem(last=False)
            self._agents -= dropped.size


def _version_of(view: NamespaceView) -> _Version:
    """Return what a ranking depends on besides the job.

    `load_version` never goes back, and grows when a freshly loaded view takes over.
    """
    return view.load_version, view.agents_revision, view.index.version


def _share_size(job: Job) -> int:
    """Return how many agents a share has at most, but for the best text matches."""
    return max(MAX_RANKED // 2, 1) if job.task_description else MAX_RANKED


def _prime_from(least: int) -> int:
    """Return the smallest prime that is at least `least`, which is at least 2.

    Ids often have a rhythm: if every tenth agent matches, every fortieth is a match either always
    or never. With a prime number of shares they are of equal size all the same.
    """
    number = least
    while any(number % divisor == 0 for divisor in range(2, isqrt(number) + 1)):
        number += 1
    return number


def _entrants(view: NamespaceView, job: Job, share: _Share) -> Collection[str]:
    """Return the ids of the agents to rank, each once."""
    matches = view.index.candidates(job.wanted)
    if share.of == 1:
        return matches.ids
    ids = matches.share(share.number, share.of)
    if not share.best_texts:
        return ids
    best = view.index.texts.search(job.task_description).best(_share_size(job), matches.ids)
    return dict.fromkeys((*best, *ids))


def _texts(view: NamespaceView, job: Job, able: list[tuple[Agent, Fitness]]) -> list[float]:
    """Return the text match of each agent relative to the best of them; 0 without a text."""
    if not job.task_description:
        return [0.0] * len(able)
    search = view.index.texts.search(job.task_description)
    return relative(search.scores([agent.agent_id for agent, _ in able]))
