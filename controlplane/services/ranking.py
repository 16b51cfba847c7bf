"""Rankings of the agents that qualify, made once per change and shared by all sessions.

Which agent is best depends on records and loads. These change a few times per second, while an
orchestrator asks for every task; what was made for a query is kept until either changes.
"""

from collections import OrderedDict
from collections.abc import Sequence
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
from controlplane.domain.text_ranking import Document, relative, relevance
from controlplane.services.read_model import AgentEntry, NamespaceView

MAX_RANKED = 2000
"""Agents ranked for one answer: 20 ms of work. Who is best of so many is as good as the best."""

_KEPT_RANKINGS = 256
"""Rankings kept until a load or an agent changes: callers repeat a few queries."""

_MOST_KEPT_AGENTS = 100_000
"""Agents kept over all rankings; some 400 bytes each."""

_MOST_KEPT_DOCUMENTS = 100_000
"""Agents whose words are kept; about 1 KiB each, and only of those a task was compared with."""

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
    """The agents that satisfy the conditions of a job."""

    ranking: Ranking
    busy: tuple[Rejected, ...]
    """Those that cannot take a task now: no free slot, or nothing but stalled instances."""

    @property
    def size(self) -> int:
        """How many agents it keeps in memory."""
        return len(self.ranking) + len(self.busy)


class Rankings:
    """Makes rankings and keeps the latest. Belongs to one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[_Version, Ranked]] = OrderedDict()
        self._agents = 0
        self._texts = _Texts()

    def ranked(
        self, view: NamespaceView, job: Job, session_id: str, *, anew: bool = False
    ) -> Ranked:
        """Return the ranking for a job with a valid filter, for a session.

        It is the one made since an agent or, to the accuracy of `load_version`, a load changed,
        unless it is to be made `anew`. If more than 2,000 agents match, those with the best text
        match are ranked or, without a task description, the share of them that belongs to the
        session (and the next share, if that has nobody who can take a task).
        """
        matches = view.index.candidates(job.wanted)
        if job.task_description or len(matches) <= MAX_RANKED:
            return self._remembered(view, job, (0, 1), anew=anew)
        shares = -(-len(matches) // MAX_RANKED)
        first = int.from_bytes(session_hash(session_id, "")) % shares
        ranked = self._remembered(view, job, (first, shares), anew=anew)
        for step in range(1, shares):
            if len(ranked.ranking):
                break
            ranked = self._remembered(view, job, ((first + step) % shares, shares), anew=anew)
        return ranked

    def _remembered(
        self, view: NamespaceView, job: Job, share: tuple[int, int], *, anew: bool
    ) -> Ranked:
        key = (view.name, job.wanted.key, job.prefer_low_latency, job.task_description, share)
        version = _version_of(view)
        known = self._kept.get(key)
        if known is not None and known[0] == version and not anew:
            self._kept.move_to_end(key)
            return known[1]
        ranked = self._rank(view, job, share)
        self._keep(key, version, ranked)
        return ranked

    def _rank(self, view: NamespaceView, job: Job, share: tuple[int, int]) -> Ranked:
        able: list[tuple[Agent, Fitness]] = []
        busy: list[Rejected] = []
        texts: list[float] = []
        for entry, text in self._entrants(view, job, share):
            agent = entry.agent
            state = fitness(agent, entry.fresh_instances())
            if isinstance(state, Fitness):
                able.append((agent, state))
                texts.append(text)
            else:
                busy.append(Rejected(agent.agent_id, agent.spec.name_version, *state))
        busy.sort()
        by_text = bool(job.task_description) and not job.wanted.capabilities
        ranking = Ranking(
            [
                Candidate(agent, state, text if by_text else 1.0, text)
                for (agent, state), text in zip(able, relative(texts), strict=True)
            ],
            LOW_LATENCY_SPEED_WEIGHT if job.prefer_low_latency else SPEED_WEIGHT,
        )
        return Ranked(ranking, tuple(busy))

    def _entrants(
        self, view: NamespaceView, job: Job, share: tuple[int, int]
    ) -> list[tuple[AgentEntry, float]]:
        """Return the agents to rank, each with its text match."""
        matches = view.index.candidates(job.wanted)
        number, shares = share
        ids = matches.share(number, shares) if shares > 1 else list(matches.ids)
        entries = [view.agents[agent_id] for agent_id in ids]
        if not job.task_description:
            return [(entry, 0.0) for entry in entries]
        agents = [entry.agent for entry in entries]
        scored = list(
            zip(entries, self._texts.match(view.name, job.task_description, agents), strict=True)
        )
        if len(scored) > MAX_RANKED:
            scored.sort(key=lambda row: (-row[1], row[0].agent.agent_id))
            del scored[MAX_RANKED:]
        return scored

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


class _Texts:
    """What agents say about themselves, as words; made when a task is first compared with them."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str], tuple[Agent, Document]] = {}

    def match(self, namespace: str, task: str, agents: Sequence[Agent]) -> list[float]:
        """Return the text match of each agent with a task; see `relevance`."""
        return relevance(task, [self._document(namespace, agent) for agent in agents])

    def _document(self, namespace: str, agent: Agent) -> Document:
        key = namespace, agent.agent_id
        known = self._documents.get(key)
        if known is not None and known[0] is agent:
            return known[1]
        spec = agent.spec
        document = Document.of((spec.description, *spec.capabilities, *spec.tools))
        if len(self._documents) >= _MOST_KEPT_DOCUMENTS:
            self._documents.clear()
        self._documents[key] = agent, document
        return document
