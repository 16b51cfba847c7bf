"""The index of the read model: which agents match, without looking at the others.

For every value that can be asked for there is a set of agent ids; a query intersects its sets,
smallest first, so it costs what its rarest condition holds and not what the fleet holds. Order by
agent_id comes from one sorted list of all ids that is brought up to date when it is needed.
"""

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.selection import (
    ANY_STATUS,
    AgentFilter,
    RejectionReason,
    VersionRange,
)
from controlplane.services.change_journal import ChangeJournal

_Term = tuple[str, str] | tuple[str, str, str]
"""A kind and a value; tags have a key between them."""

_KEPT_ANSWERS = 256
"""Query results kept until the next change of an agent: callers repeat a few queries."""

_MOST_KEPT_IDS = 200_000
"""Ids kept over all results (8 bytes each, and as much again for the hash table): a few MiB."""

_FEW_NEWCOMERS = 64
"""Up to this many new ids are inserted into the sorted list one by one; more are sorted in."""

DENSE = 16
"""A set that holds at least one in so many agents is put in order by walking the sorted list of
all; a rarer one is sorted by itself."""

NearMiss = tuple[str, RejectionReason, str]
"""agent_id, the first condition that it fails, and that in words."""

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
        self._order: list[str] = []
        self._newcomers: set[str] = set()
        self._leavers: set[str] = set()
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
        self._forget_answers()
        self._agents[agent_id] = agent
        postings = self._postings
        for term in _terms(agent):
            ids = postings.get(term)
            if ids is None:
                postings[term] = {agent_id}
            else:
                ids.add(agent_id)
        if agent_id in self._leavers:
            self._leavers.discard(agent_id)
        else:
            self._newcomers.add(agent_id)

    def remove(self, agent: Agent) -> None:
        """Forget an agent as it was added; forgetting an unknown one does nothing."""
        agent_id = agent.agent_id
        known = self._agents.pop(agent_id, None)
        if known is None:
            return
        self._forget_answers()
        for term in _terms(known):
            ids = self._postings.get(term)
            if ids is not None:
                ids.discard(agent_id)
                if not ids:
                    del self._postings[term]
        if agent_id in self._newcomers:
            self._newcomers.discard(agent_id)
        else:
            self._leavers.add(agent_id)

    def ids(self) -> Sequence[str]:
        """Return all agent ids in order. Not to be changed, and only good until the next change."""
        if self._leavers:
            leavers = self._leavers
            self._order = [agent_id for agent_id in self._order if agent_id not in leavers]
            self._leavers = set()
        if self._newcomers:
            if len(self._newcomers) <= _FEW_NEWCOMERS:
                for agent_id in self._newcomers:
                    insort(self._order, agent_id)
            else:
                self._order.extend(self._newcomers)
                self._order.sort()
            self._newcomers = set()
        return self._order

    def candidates(self, wanted: AgentFilter) -> "Matches":
        """Return the agents that match a valid filter; the same object until something changes."""
        key = wanted.key
        known = self._answers.get(key)
        if known is not None:
            self._answers.move_to_end(key)
            return known
        matches = Matches(self, self._select(wanted))
        self._answers[key] = matches
        self._kept_ids += len(matches)
        while len(self._answers) > _KEPT_ANSWERS or (
            self._kept_ids > _MOST_KEPT_IDS and len(self._answers) > 1
        ):
            _, dropped = self._answers.popitem(last=False)
            self._kept_ids -= len(dropped)
        return matches

    def rarest(self, wanted: AgentFilter, count: int) -> list[AbstractSet[str]]:
        """Return the agents of the `count` rarest conditions of a filter, the rarest first.

        Version ranges, and several statuses, are alternatives and not among the conditions. Not to
        be changed, and only good until the next change.
        """
        sets = [self._postings.get(term, _NONE) for term in _wanted_terms(wanted)]
        sets.sort(key=len)
        return list(sets[:count])

    def _forget_answers(self) -> None:
        self.version += 1
        if self._answers:
            self._answers.clear()
            self._kept_ids = 0

    def _select(self, wanted: AgentFilter) -> AbstractSet[str]:
        sets = [self._postings.get(term, _NONE) for term in _wanted_terms(wanted)]
        sets.sort(key=len)
        some_statuses = len(wanted.statuses) > 1 and wanted.statuses != ANY_STATUS
        found: AbstractSet[str]
        if sets:
            found = sets[0]
            for ids in sets[1:]:
                if not found:
                    return _NONE
                found = found & ids
            if some_statuses:
                found = self._in_statuses(found, wanted.statuses)
        elif some_statuses:
            found = self._of_statuses(wanted.statuses)
        else:
            found = self._agents.keys()
        if wanted.version_range and found:
            found = self._in_range(found, VersionRange.parse(wanted.version_range))
        return found

    def _in_statuses(
        self, found: AbstractSet[str], statuses: frozenset[AgentStatus]
    ) -> AbstractSet[str]:
        agents = self._agents
        return {agent_id for agent_id in found if agents[agent_id].status in statuses}

    def _of_statuses(self, statuses: frozenset[AgentStatus]) -> AbstractSet[str]:
        sets = (self._postings.get(("status", status), _NONE) for status in statuses)
        return frozenset().union(*sets)

    def _in_range(self, found: AbstractSet[str], versions: VersionRange) -> AbstractSet[str]:
        verdicts: dict[str, bool] = {}
        chosen: set[str] = set()
        for agent_id in found:
            version = self._agents[agent_id].spec.version
            verdict = verdicts.get(version)
            if verdict is None:
                verdict = verdicts[version] = versions.contains(version)
            if verdict:
                chosen.add(agent_id)
        return chosen


class Matches:
    """The agents that matched a filter. Good until the next change of the index."""

    __slots__ = ("_index", "_order", "ids", "near")

    def __init__(self, index: AgentIndex, ids: AbstractSet[str]) -> None:
        self.ids = ids
        """The ids, in no order."""
        self.near: tuple[int, list[NearMiss]] | None = None
        """What `near_misses` found for how many; as short-lived as the rest."""
        self._index = index
        self._order: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def page(self, after_id: str, size: int) -> list[str]:
        """Return at most `size` ids behind `after_id` ("" for the first), in order."""
        order = self._order
        if order is None and len(self.ids) * DENSE < len(self._index):
            order = self._order = sorted(self.ids)
        if order is not None:
            start = bisect_right(order, after_id)
            return list(order[start : start + size])
        return _walk(self._index.ids(), self.ids, after_id, size)

    def share(self, number: int, of: int) -> list[str]:
        """Return the share `number` (0 ... `of` - 1) of the ids: about every `of`-th, in order.

        The shares together are all ids, each once; none is chosen by when its agents came.
        """
        order = self._index.ids() if self._order is None else self._order
        return [agent_id for agent_id in order[number::of] if agent_id in self.ids]


def _walk(order: Sequence[str], ids: AbstractSet[str], after_id: str, size: int) -> list[str]:
    page: list[str] = []
    for position in range(bisect_right(order, after_id), len(order)):
        agent_id = order[position]
        if agent_id in ids:
            page.append(agent_id)
            if len(page) == size:
                break
    return page


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
