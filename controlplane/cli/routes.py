"""`fleetplane routes`: which version of an agent gets how much."""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.arguments import pair
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import routing_service_pb2 as pb

WHOLE: Final = 10_000
"""Basis points of everything."""

app = typer.Typer(
    **PLAIN,
    help="Which version of an agent gets how much of the new sessions. A name without a route is "
    "not restricted; a rollout owns the route of its agent while it runs.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
ExpectedRevision = Annotated[
    int,
    typer.Option(
        "--expected-revision", metavar="NUMBER", min=0, help="Refuse at another revision."
    ),
]


def basis_points(text: str, what: str) -> int:
    """Read a share in percent, exact to 0.01: `10`, `12.5`, `33.34%`.

    Raises:
        WrongInput: it is none, or not within 0-100.
    """
    try:
        points = Decimal(text.strip().removesuffix("%")) * 100
    except InvalidOperation:
        points = Decimal(-1)
    if not points.is_finite() or not 0 <= points <= WHOLE or points != int(points):
        raise WrongInput(f"{what}: {text!r} is not a share in percent such as 10 or 12.5")
    return int(points)


def percent(points: int) -> str:
    """Return a share for people: `12.5 %`."""
    return f"{points / 100:g} %"


def read_shares(texts: Iterable[str]) -> dict[str, int]:
    """Read `version=percent` shares into versions and basis points.

    Raises:
        WrongInput: one is malformed or given twice, or they are not 100 % together.
    """
    shares: dict[str, int] = {}
    for text in texts:
        version, share = pair(text, "VERSION=PERCENT")
        if version in shares:
            raise WrongInput(f"version {version} is named twice")
        shares[version] = basis_points(share, version)
    total = sum(shares.values())
    if total != WHOLE:
        raise WrongInput(f"the shares are {percent(total)} together, not 100 %")
    return shares


@command(
    app,
    "list",
    examples=("fleetplane routes list", "fleetplane routes list -o json"),
)
async def list_routes(call: Globals) -> None:
    """List all routes, by name."""
    async with call.client() as client:
        routes = [one async for one in client.list_routes()]
    if call.output is not Output.TABLE:
        write_value(call.output, {"routes": [as_dict(one) for one in routes]})
        return
    from controlplane.cli.route_views import routes_table  # noqa: PLC0415  # imports the SDK

    if not routes:
        note("No route: every active version of every agent may take work.")
        return
    write(routes_table(routes))


@command(
    app,
    "get",
    examples=("fleetplane routes get writer", "fleetplane routes get writer -o yaml"),
)
async def get(call: Globals, name: Name) -> None:
    """Show the route of an agent name."""
    async with call.client() as client:
        route = await client.get_route(name)
    _write(call.output, route)


def _write(output: Output, route: "pb.Route") -> None:
    from controlplane.cli.route_views import route_details  # noqa: PLC0415  # imports the SDK

    if output is Output.TABLE:
        write(route_details(route))
    else:
        write_value(output, as_dict(route))


@command(
    app,
    "set",
    examples=(
        "fleetplane routes set writer 2.1.0=10 2.0.0=90 --reason 'try it on a tenth'",
        "fleetplane routes set writer 2.0.0=100",
    ),
)
async def set_route(
    call: Globals,
    *,
    name: Name,
    shares: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION=PERCENT...",
            help="Together 100; the version that will grow comes first.",
            show_default=False,
        ),
    ],
    reason: Reason = "",
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Set the shares of new sessions that the versions of an agent get.

    Versions that are not named get nothing. Sessions stay with the version that took their first
    task.
    """
    wanted = read_shares(shares)
    async with call.client() as client:
        route = await client.set_route(
            name, wanted, reason=reason, expected_revision=expected_revision
        )
    _write(call.output, route)


@command(
    app,
    "delete",
    examples=("fleetplane routes delete writer --reason 'one version is left'",),
)
async def delete(
    call: Globals,
    *,
    name: Name,
    reason: Reason = "",
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Remove a route: every active version may take work again."""
    async with call.client() as client:
        revision = await client.delete_route(
            name, reason=reason, expected_revision=expected_revision
        )
    if call.output is not Output.TABLE:
        write_value(call.output, {"revision": str(revision)})
    elif revision:
        write(printable(f"{name} has no route any more (revision {revision})"))
    else:
        write(printable(f"{name} had no route"))
