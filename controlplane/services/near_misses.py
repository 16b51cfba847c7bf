"""Who almost matched a filter: the explanation of a choice, found without looking at the fleet.

An agent that fails a single condition holds all the others, so it is in the set of the rarest
condition or, if that is the one it fails, in the set of the next. Only these are looked at, and
only up to a bound: an explanation is worth a few microseconds, not a scan.
"""

from collections.abc import Iterator
from itertools import islice

from controlplane.domain.selection import AgentFilter, RejectionReason
from controlplane.services.agent_index import AgentIndex
from controlplane.services.agent_matches import DENSE, NearMiss

_LOOKED_AT = 4
"""Agents judged per miss that is wanted, so that the nearest of them can be chosen."""

_STEPS = 500
"""Ids of the whole fleet stepped over in search of agents that hold a common condition; 20 us."""

_RARE = 2000
"""Agents of a condition that are put in order to choose from; more would take over 300 us."""

_DISTANCE = {reason: place for place, reason in enumerate(reversed(RejectionReason))}
"""Among agents that fail equally many conditions: one that may not call a tool is nearer than one
that lacks the capability."""


def near_misses(index: AgentIndex, wanted: AgentFilter, limit: int) -> list[NearMiss]:
    """Return at most `limit` agents that do not match a valid filter, nearest first.

    Fewest failed conditions first. They are the nearest of those that were looked at, the same on
    every replica with the same agents; that nobody is nearer is not proven.
    """
    matches = index.candidates(wanted)
    if matches.near is None or matches.near[0] < limit:
        matches.near = limit, _search(index, wanted, limit)
    return matches.near[1][:limit]


def _search(index: AgentIndex, wanted: AgentFilter, limit: int) -> list[NearMiss]:
    rows = []
    for agent_id in islice(_neighbours(index, wanted), limit * _LOOKED_AT):
        agent = index.get(agent_id)
        failed = [] if agent is None else list(wanted.mismatches(agent))
        if failed:
            reason, detail = failed[0]
            rows.append((len(failed), _DISTANCE[reason], agent_id, reason, detail))
    rows.sort()
    return [(agent_id, reason, detail) for _, _, agent_id, reason, detail in rows[:limit]]


def _neighbours(index: AgentIndex, wanted: AgentFilter) -> Iterator[str]:
    """Yield agents that hold one of the two rarest conditions, then any; none twice, no match."""
    seen: set[str] = set()
    matching = index.candidates(wanted).ids
    some = index.ids()[:_STEPS]
    for ids in index.rarest(wanted, 2):
        dense = len(ids) > _RARE or len(ids) * DENSE > len(index)
        for agent_id in some if dense else sorted(ids):
            if agent_id in ids and agent_id not in matching and agent_id not in seen:
                seen.add(agent_id)
                yield agent_id
    for agent_id in some:
        if agent_id not in matching and agent_id not in seen:
            seen.add(agent_id)
            yield agent_id
