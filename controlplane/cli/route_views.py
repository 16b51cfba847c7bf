"""Routes as tables."""

from collections.abc import Iterable

from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, fields, table
from controlplane.cli.routes import percent
from fleetplane.v1 import routing_service_pb2 as pb

_COLUMNS = (
    Column("NAME", flexible=True),
    Column("SHARES", flexible=True),
    Column("ROLLOUT", flexible=True),
    Column("SET BY", flexible=True),
    Column("AGO", right=True),
    Column("REASON", flexible=True),
)

_SHARE_COLUMNS = (
    Column("VERSION"),
    Column("SHARE", right=True),
    Column("AGENT", flexible=True),
)


def routes_table(routes: Iterable[pb.Route]) -> str:
    """Lay out routes, one per line."""
    return table(
        _COLUMNS,
        [
            (
                one.agent_name,
                ", ".join(f"{share.version} {percent(share.weight_bp)}" for share in one.shares),
                one.rollout_id,
                one.set_by,
                ago(one.updated_at),
                one.reason,
            )
            for one in routes
        ],
    )


def route_details(route: pb.Route) -> str:
    """Lay out everything about a route."""
    shown = fields(
        {
            "name": route.agent_name,
            "rollout": route.rollout_id,
            "set by": route.set_by,
            "why": route.reason,
            "changed": f"{moment(route.updated_at)} (revision {route.revision})",
        }
    )
    rows = [(one.version, percent(one.weight_bp), one.agent_id) for one in route.shares]
    return f"{shown}\n\n" + table(_SHARE_COLUMNS, rows)
