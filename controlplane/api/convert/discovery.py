"""Discovery: requests to queries, and answers to messages."""

import asyncio
from collections.abc import Iterable
from typing import Final

from controlplane.api.convert.agents import agent_to_proto, filter_from_proto, instance_to_proto
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.routes import choice_to_proto
from controlplane.api.convert.values import EnumPair
from controlplane.domain.identity import namespace_of
from controlplane.domain.routing import Score
from controlplane.domain.selection import RejectionReason
from controlplane.services.agent_watch import Bookmark, Delta, SnapshotPart, WatchEvent
from controlplane.services.discovery import (
    DEFAULT_EXPLAINED,
    AgentPage,
    BestAgent,
    BestAgentQuery,
)
from controlplane.services.live_instances import AgentEntry
from controlplane.services.ranking import Rejected
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import registry_service_pb2 as pb

SLICE: Final = 50
"""Agents that are rendered without a pause: about a millisecond of the event loop."""

REJECTIONS = EnumPair(pb.RejectionReason, "REJECTION_REASON_", RejectionReason)


def best_query_from_proto(request: pb.FindBestAgentRequest) -> BestAgentQuery:
    """Return what is to be done, and by whom it could be done; `find_best` checks its sizes.

    Raises:
        InvalidArgument: the namespace or one or more fields of the filter are wrong.
    """
    explained = request.max_explained if request.HasField("max_explained") else DEFAULT_EXPLAINED
    return BestAgentQuery(
        namespace=namespace_of(request.namespace),
        filter=filter_from_proto(request.filter),
        prefer_low_latency=request.prefer_low_latency,
        task_description=request.task_description,
        session_id=request.session_id,
        max_explained=explained,
        min_revision=request.min_revision,
    )


async def list_agents_response(
    page: AgentPage,
    namespace: str,
    next_page_token: str,
    include_instances: bool,  # noqa: FBT001 - a field of the request, passed on as it came
) -> pb.ListAgentsResponse:
    """Return a page of ListAgents."""
    return pb.ListAgentsResponse(
        agents=await _page(page, namespace, include_instances=include_instances),
        next_page_token=next_page_token,
        total_size=page.total,
        position=position_to_proto(page.position),
    )


async def discover_response(
    page: AgentPage, namespace: str, next_page_token: str
) -> pb.DiscoverResponse:
    """Return a page of Discover."""
    return pb.DiscoverResponse(
        agents=await _page(page, namespace, include_instances=False),
        next_page_token=next_page_token,
        total_size=page.total,
        position=position_to_proto(page.position),
    )


def _agents(
    entries: Iterable[AgentEntry], namespace: str, *, include_instances: bool
) -> list[agent_pb2.Agent]:
    return [
        agent_to_proto(entry, namespace, include_instances=include_instances) for entry in entries
    ]


async def _page(
    page: AgentPage, namespace: str, *, include_instances: bool
) -> list[agent_pb2.Agent]:
    """Render a page a slice at a time: a thousand agents take 15 ms, in which others wait."""
    agents: list[agent_pb2.Agent] = []
    for start in range(0, len(page.entries), SLICE):
        if start:
            await asyncio.sleep(0)
        part = page.entries[start : start + SLICE]
        agents += _agents(part, namespace, include_instances=include_instances)
    return agents


def find_best_response(best: BestAgent, namespace: str) -> pb.FindBestAgentResponse:
    """Return the winner, and why."""
    return pb.FindBestAgentResponse(
        agent=agent_to_proto(best.entry, namespace, include_instances=False),
        instance=instance_to_proto(best.instance),
        score=score_to_proto(best.score),
        candidates=[score_to_proto(one) for one in best.runners_up],
        rejected=[rejected_to_proto(one) for one in best.rejected],
        candidate_count=best.candidate_count,
        position=position_to_proto(best.position),
        route=choice_to_proto(best.route) if best.route is not None else None,
    )


def score_to_proto(score: Score) -> pb.ScoredCandidate:
    """Return a score with its parts."""
    return pb.ScoredCandidate(
        agent_id=score.agent_id,
        name_version=score.name_version,
        score=score.total,
        capability_match=score.capability_match,
        concurrency=score.concurrency,
        speed=score.speed,
        speed_weight=score.speed_weight,
        in_flight=score.in_flight,
        measured=score.measured,
    )


def rejected_to_proto(rejected: Rejected) -> pb.RejectedCandidate:
    """Return why an agent was no candidate."""
    return pb.RejectedCandidate(
        agent_id=rejected.agent_id,
        name_version=rejected.name_version,
        reason=REJECTIONS.to_wire(rejected.reason),
        detail=rejected.detail,
    )


def watch_event_to_proto(
    event: WatchEvent,
    namespace: str,
    include_instances: bool,  # noqa: FBT001 - a field of the request, passed on as it came
) -> pb.WatchAgentsResponse:
    """Return what a watcher is sent; `go_away` is not an event of the domain."""
    message = pb.WatchAgentsResponse(position=position_to_proto(event.position))
    match event:
        case SnapshotPart():
            agents = _agents(event.entries, namespace, include_instances=include_instances)
            message.snapshot.agents.extend(agents)
            message.snapshot.complete = event.complete
        case Delta():
            agents = _agents(event.entries, namespace, include_instances=include_instances)
            message.delta.agents.extend(agents)
            message.delta.removed_agent_ids.extend(event.removed_ids)
        case Bookmark():
            message.bookmark.SetInParent()
    return message
