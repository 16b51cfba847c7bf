"""Routes between the wire and the domain."""

from collections.abc import Iterable

from controlplane.api.convert.values import EnumPair, moment
from controlplane.domain.routes import Route, Share
from controlplane.services.routing.choice import RouteChoice, RouteRule
from fleetplane.v1 import registry_service_pb2
from fleetplane.v1 import routing_service_pb2 as pb

RULES = EnumPair(registry_service_pb2.RouteDecision.Rule, "RULE_", RouteRule)


def shares_from_proto(shares: Iterable[pb.RouteShare]) -> tuple[tuple[str, int], ...]:
    """Return (version, weight in basis points) of every share; the domain judges them."""
    return tuple((share.version, share.weight_bp) for share in shares)


def share_to_proto(share: Share) -> pb.RouteShare:
    """Return the share of one version."""
    return pb.RouteShare(version=share.version, weight_bp=share.weight_bp, agent_id=share.agent_id)


def route_to_proto(route: Route) -> pb.Route:
    """Return a route."""
    return pb.Route(
        agent_name=route.name,
        shares=[share_to_proto(share) for share in route.shares],
        rollout_id=route.rollout_id,
        set_by=route.set_by,
        reason=route.reason,
        updated_at=moment(route.updated_at_ms),
        revision=route.revision,
    )


def choice_to_proto(choice: RouteChoice) -> registry_service_pb2.RouteDecision:
    """Return why a session goes to a version."""
    return registry_service_pb2.RouteDecision(
        rule=RULES.to_wire(choice.rule),
        weight_bp=choice.weight_bp,
        bucket=choice.bucket,
        rollout_id=choice.rollout_id,
    )
