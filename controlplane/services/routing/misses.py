"""Who would do, and is passed over because a route leads to another version."""

from collections.abc import Collection
from itertools import chain

from controlplane.domain.agents import Agent
from controlplane.domain.routing import Ranking
from controlplane.domain.selection import RejectionReason
from controlplane.services.agent_matches import Matches
from controlplane.services.ranking import Rejected
from controlplane.services.read_model import NamespaceView
from controlplane.services.routing.choice import Routed


def sent_elsewhere(view: NamespaceView, matches: Matches, call: Routed) -> set[str]:
    """Return the ids of the matching agents that a call is not led to."""
    routes, ids, agents = view.work.routes, matches.ids, view.agents
    if len(ids) <= len(routes):
        named: Collection[str] = ids
    else:
        versions = (view.ids_of_name.get(name, ()) for name in routes)
        named = [agent_id for agent_id in chain.from_iterable(versions) if agent_id in ids]
    return {agent_id for agent_id in named if not call(agents[agent_id].agent)}


def turned_away(view: NamespaceView, ranking: Ranking, call: Routed) -> list[Agent]:
    """Return the ranked agents that a call is not led to, by agent_id."""
    ranked = ranking.by_name
    away = [
        one.agent
        for name in ranked.keys() & view.work.routes.keys()
        for one in ranked[name]
        if not call(one.agent)
    ]
    away.sort(key=lambda agent: agent.agent_id)
    return away


def rejection_of(view: NamespaceView, agent: Agent, call: Routed) -> Rejected:
    """Return why an agent that was turned away is no candidate."""
    detail = "is not where the route leads"
    choice = call.choice(agent.spec.name)
    if choice is not None:
        entry = view.agents.get(choice.agent_id)
        version = choice.agent_id if entry is None else entry.agent.spec.version
        detail = (
            f"is not where the route leads: to version {version} by {choice.rule}, "
            f"which has {choice.weight_bp} of 10000"
        )
    return Rejected(agent.agent_id, agent.spec.name_version, RejectionReason.ROUTE, detail)
