"""The watch of policies between the wire and the services.

What several watchers are sent is serialised once: parts of messages may be joined as bytes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.policies import policy_to_proto
from controlplane.api.convert.values import (
    EnumPair,
    json_to_struct,
    ms_to_duration,
    ms_to_timestamp,
)
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import Effect, OnMissing
from controlplane.services.policies.policy_watch import (
    AgentNews,
    PolicyEvent,
    SetPart,
    WatchedAgent,
)
from controlplane.services.policies.published import PublishedPolicy
from controlplane.services.ports import Position
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1 import watch_pb2

MAX_WATCHED_AGENTS: Final = 1000
"""Agents of one WatchPolicies stream; a process with more opens a second stream."""

KEPT_PARTS: Final = 128
"""Parts of sets that are kept as bytes, 1 MiB each at most: many watchers ask for few."""

_EFFECTS: Final = EnumPair(pb.PolicyAction, "POLICY_ACTION_", Effect)
_ON_MISSING: Final = EnumPair(pb.OnMissing, "ON_MISSING_", OnMissing)


def watched_agents_from_proto(agents: Sequence[pb.WatchedPolicyAgent]) -> list[WatchedAgent]:
    """Return the agents of a watch and what the client holds about each.

    Raises:
        InvalidArgument: none, more than 1,000, one without an id, or one twice.
    """
    if not 0 < len(agents) <= MAX_WATCHED_AGENTS:
        raise InvalidArgument.of("agents", f"must hold 1-{MAX_WATCHED_AGENTS} agents")
    seen: dict[str, WatchedAgent] = {}
    for index, one in enumerate(agents):
        field = f"agents[{index}].agent_id"
        if not one.agent_id:
            raise InvalidArgument.of(field, "is required")
        if one.agent_id in seen:
            raise InvalidArgument.of(field, f"{one.agent_id} is there twice")
        seen[one.agent_id] = WatchedAgent(one.agent_id, one.held_facts_digest, one.held_set_id)
    return list(seen.values())


def held_from_proto(request: pb.WatchPoliciesRequest) -> Position | None:
    """Return how far the client was; None if it does not say."""
    if not request.HasField("held"):
        return None
    return Position(epoch=request.held.epoch, revision=request.held.revision)


def policies_go_away(message: watch_pb2.GoAway) -> pb.WatchPoliciesResponse:
    """Return the last message of a watch."""
    return pb.WatchPoliciesResponse(go_away=message)


def policy_event_to_proto(event: PolicyEvent) -> bytes:
    """Return one message of WatchPolicies as bytes."""
    own = pb.WatchPoliciesResponse(
        agents=[_agent_to_proto(one) for one in event.agents],
        complete=event.complete,
        bookmark=event.bookmark,
        now=ms_to_timestamp(event.now_ms),
        age=ms_to_duration(round(event.age_seconds * 1000)),
    )
    if event.complete or event.bookmark:
        own.position.CopyFrom(position_to_proto(event.position))
    encoded: bytes = own.SerializeToString()
    return encoded if event.part is None else _PARTS.bytes_of(event.part) + encoded


def _agent_to_proto(news: AgentNews) -> pb.AgentPolicies:
    return pb.AgentPolicies(
        agent_id=news.agent_id,
        absent=news.absent,
        facts=json_to_struct(news.facts) if news.facts is not None else None,
        facts_digest=news.facts_digest,
        set_id=news.set_id,
    )


class _Parts:
    """Parts of sets as bytes, those used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def bytes_of(self, part: SetPart) -> bytes:
        """Return a part, serialised once: equal digests mean equal bytes."""
        wanted = part.wanted
        span = (part.put[0].digest, part.put[-1].digest) if part.put else ()
        key = (wanted.heading, part.base_set_id, (*span, *part.removed[:1]))
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _rendered(part)
            if len(self._kept) > KEPT_PARTS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return kept


_PARTS: Final = _Parts()


def _rendered(part: SetPart) -> bytes:
    wanted = part.wanted
    message = pb.PolicySetPart(
        set_id=wanted.set_id,
        base_set_id=part.base_set_id,
        digest=wanted.digest,
        candidate_id=wanted.candidate_id,
        revision=wanted.revision,
        default_effect=_EFFECTS.to_wire(wanted.default_effect),
        on_missing=_ON_MISSING.to_wire(wanted.on_missing),
        policies=[_policy_to_proto(one) for one in part.put],
        removed_policy_ids=part.removed,
    )
    return pb.WatchPoliciesResponse(sets=[message]).SerializeToString()


def _policy_to_proto(one: PublishedPolicy) -> pb.WatchedPolicy:
    message = policy_to_proto(one.policy)
    for stamp in ("revision", "updated_at", "updated_by"):
        # Who changed what for the whole namespace is not about the agents that decide by it.
        message.ClearField(stamp)
    return pb.WatchedPolicy(policy=message, digest=one.digest)
