"""The index of the read model: which agents match, without looking at the others.

For every value that can be asked for there is a set of agent ids; a query intersects its sets,
smallest first, so it costs what its rarest condition holds and not what the fleet holds. The result
is kept and follows the agents that change, so asking again costs what changed since. What active
agents say about themselves is indexed by its words.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import TypeVar

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.selection import ANY_STATUS, AgentFilter, VersionRange
from controlplane.domain.text_ranking import Corpus
from controlplane.services.agent_matches import Matches
from controlplane.services.change_journal import ChangeJournal
from controlplane.services.id_order import IdOrder

_Term = tuple[str, str] | tuple[str, str, str]
"""A kind and a value; tags have a key between them."""

_Key = TypeVar("_Key", bound=Hashable)

_KEPT_ANSWERS = 256
"""Query results kept: callers repeat a few queries."""

_KEPT_IDS = 200_000
"""Ids kept over all results in a small fleet, at 30-60 bytes each: 10 MiB."""

_KEPT_IDS_PER_AGENT = 4
"""The same in a large one, per agent: so many results may hold nearly everybody."""

_FOLLOWED_CHANGES = 4096
"""Changes that a kept result is brought through at most: 5 ms of work."""

_IDS_PER_CHANGE = 16
"""Ids of the rarest condition that are intersected in the time of judging one agent that changed,
1.5 us: whether a result follows the changes or is made anew depends on which is less work."""

_FEW_TO_JUDGE = 1000
"""Agents whose versions are looked at one by one, at 0.2 us each; of more, the agents of each
version are taken together."""

_NONE: frozenset[str] = frozenset()


class AgentIndex:
    """Agents of one namespace by everything they can be found by. Belongs to one event loop."""

    def __init__(self) -> None:
        self.version = 0
        """Grows with every change; results of the same version are the same."""
        self.journal = ChangeJournal()
        """Which agents changed lately; told by the owner of the index, who knows of instances."""
        self._agents: dict[str, Agent] = {}
        self._postings: dict[_Term, set[str]] = {}
        self._versions: dict[str, set[str]] = {}
        """version -> ids; apart from the other values, to be gone through for a range."""
        self.draining: set[str] = set()
        """Ids of draining agents; not to be changed by others."""
        self.texts = Corpus()
        """The descriptions, capabilities and tools of the ACTIVE agents, under their ids."""
        self._everybody = IdOrder()
        self._changed: deque[str] = deque(maxlen=_FOLLOWED_CHANGES)
        """Who was added or removed; the last one made `version` what it is."""
        self._answers: OrderedDict[tuple[object, ...], Matches] = OrderedDict()
        self._kept_ids = 0

    def __len__(self) -> int:
        return len(self._agents)

    def get(self, agent_id: str) -> Agent | None:
        """Return an indexed agent."""
        return self._agents.get(agent_id)

    def add(self, agent: Agent) -> None:
        """Index an agent, in place of one with the same id."""
        agent_id = agent.agent_id
        if agent_id in self._agents:
            self.remove(agent)
        self._note(agent_id)
        self._agents[agent_id] = agent
        for term in _terms(agent):
            _put_in(self._postings, term, agent_id)
        _put_in(self._versions, agent.spec.version, agent_id)
        if agent.draining:
            self.draining.add(agent_id)
        self._everybody.add(agent_id)
        if agent.status is AgentStatus.ACTIVE:
            self.texts.add(agent_id, _texts(agent))

    def remove(self, agent: Agent) -> None:
        """Forget an agent as it was added; forgetting an unknown one does nothing."""
        agent_id = agent.agent_id
        known = self._agents.pop(agent_id, None)
        if known is None:
            return
        self._note(agent_id)
        for term in _terms(known):
            _take_out(self._postings, term, agent_id)
        _take_out(self._versions, known.spec.version, agent_id)
        self.draining.discard(agent_id)
        self._everybody.remove(agent_id)
        if known.status is AgentStatus.ACTIVE:
            self.texts.remove(agent_id, _texts(known))

    def ids(self) -> Sequence[str]:
        """Return all agent ids in order. Not to be changed, and only good until the next change."""
        return self._everybody.ids()

    def candidates(self, wanted: AgentFilter) -> Matches:
        """Return the agents that match a valid filter; only good until the next change."""
        key = wanted.key
        matches = self._answers.get(key)
        if matches is not None:
            self._kept_ids -= matches.kept
            if not self._brought_up_to_date(matches, wanted):
                matches = None
        if matches is None:
            own = None
            ids = self._live(wanted)
            if ids is None:
                ids = own = self._select(wanted)
            matches = Matches(self._everybody, self.version, ids, own)
            self._answers[key] = matches
        self._answers.move_to_end(key)
        self._kept_ids += matches.kept
        self._drop_oldest_answers()
        return matches

    def rarest(self, wanted: AgentFilter, count: int) -> Sequence[AbstractSet[str]]:
        """Return the agents of the `count` rarest conditions of a filter, the rarest first.

        Version ranges, and several statuses, are alternatives and not among the conditions. Not to
        be changed, and only good until the next change.
        """
        return self._sets(wanted)[:count]

    def _note(self, agent_id: str) -> None:
        self.version += 1
        self._changed.append(agent_id)

    def _brought_up_to_date(self, matches: Matches, wanted: AgentFilter) -> bool:
        """Let a kept result follow what changed; False if it is less work to make it anew."""
        behind = self.version - matches.version
        if not behind:
            return True
        rarest = self._sets(wanted)[:1]
        smallest = len(rarest[0]) if rarest else len(self._agents)
        if behind > min(len(self._changed), 1 + smallest // _IDS_PER_CHANGE):
            return False
        judged = []
        for agent_id in set(islice(reversed(self._changed), behind)):
            agent = self._agents.get(agent_id)
            judged.append((agent_id, agent is not None and wanted.matches(agent)))
        matches.follow(self.version, judged, self._live(wanted))
        return True

    def _drop_oldest_answers(self) -> None:
        limit = max(_KEPT_IDS, _KEPT_IDS_PER_AGENT * len(self._agents))
        answers = self._answers
        while len(answers) > _KEPT_ANSWERS or (self._kept_ids > limit and len(answers) > 1):
            _, dropped = answers.popitem(last=False)
            self._kept_ids -= dropped.kept

    def _live(self, wanted: AgentFilter) -> AbstractSet[str] | None:
        """Return the set of a filter with at most one condition, as it is kept here anyway."""
        if wanted.version_range or wanted.takes_work or _has_some_statuses(wanted):
            return None
        terms = list(islice(_wanted_terms(wanted), 2))
        if len(terms) > 1:
            return None
        return self._postings.get(terms[0], _NONE) if terms else self._agents.keys()

    def _select(self, wanted: AgentFilter) -> set[str]:
        """Return a new set of the agents that match a filter."""
        found = self._select_draining_too(wanted)
        if wanted.takes_work:
            found -= self.draining
        return found

    def _select_draining_too(self, wanted: AgentFilter) -> set[str]:
        sets = self._sets(wanted)
        some_statuses = _has_some_statuses(wanted)
        versions = VersionRange.parse(wanted.version_range) if wanted.version_range else None
        if sets:
            found = sets[0].intersection(*sets[1:])
            if some_statuses:
                found = self._in_statuses(found, wanted.statuses)
        elif some_statuses:
            found = self._of_statuses(wanted.statuses)
        elif versions is not None:
            return self._of_versions(versions)
        else:
            found = set(self._agents)
        return found if versions is None else self._in_range(found, versions)

    def _sets(self, wanted: AgentFilter) -> list[set[str]]:
        """Return the agents of each condition of a filter, the rarest first."""
        sets = [self._postings.get(term) or set() for term in _wanted_terms(wanted)]
        sets.sort(key=len)
        return sets

    def _in_statuses(self, found: set[str], statuses: frozenset[AgentStatus]) -> set[str]:
        agents = self._agents
        return {agent_id for agent_id in found if agents[agent_id].status in statuses}

    def _of_statuses(self, statuses: frozenset[AgentStatus]) -> set[str]:
        sets = (self._postings.get(("status", status), _NONE) for status in statuses)
        return set().union(*sets)

    def _in_range(self, found: set[str], versions: VersionRange) -> set[str]:
        if len(found) > _FEW_TO_JUDGE:
            return found & self._of_versions(versions)
        agents = self._agents
        return {agent_id for agent_id in found if versions.contains(agents[agent_id].spec.version)}

    def _of_versions(self, versions: VersionRange) -> set[str]:
        sets = (ids for version, ids in self._versions.items() if versions.contains(version))
        return set().union(*sets)


def _put_in(sets: dict[_Key, set[str]], key: _Key, agent_id: str) -> None:
    ids = sets.get(key)
    if ids is None:
        sets[key] = {agent_id}
    else:
        ids.add(agent_id)


def _take_out(sets: dict[_Key, set[str]], key: _Key, agent_id: str) -> None:
    ids = sets.get(key)
    if ids is not None:
        ids.discard(agent_id)
        if not ids:
            del sets[key]


def _terms(agent: Agent) -> Iterator[_Term]:
    """Yield everything by which an agent can be found."""
    spec = agent.spec
    for capability in spec.capabilities:
        yield "capability", capability
    for key, value in spec.tags.items():
        yield "tag", key, value
    yield "status", agent.status
    yield "name", spec.name
    if spec.owner:
        yield "owner", spec.owner
    if spec.model:
        yield "model", spec.model
    for tool in spec.tools:
        yield "tool", tool


def _texts(agent: Agent) -> tuple[str, ...]:
    """Return what an agent says about itself, as far as a task is compared with it."""
    spec = agent.spec
    return spec.description, *spec.capabilities, *spec.tools


def _has_some_statuses(wanted: AgentFilter) -> bool:
    """Whether a filter names alternatives of status, and not all there are."""
    return len(wanted.statuses) > 1 and wanted.statuses != ANY_STATUS


def _wanted_terms(wanted: AgentFilter) -> Iterable[_Term]:
    """Yield what an agent must be found by; several statuses, and versions, are alternatives."""
    if len(wanted.statuses) == 1:
        yield "status", next(iter(wanted.statuses))
    for capability in wanted.capabilities:
        yield "capability", capability
    for key, value in wanted.tags.items():
        yield "tag", key, value
    for kind in ("name", "owner", "model", "tool"):
        value = getattr(wanted, kind)
        if value:
            yield kind, value
