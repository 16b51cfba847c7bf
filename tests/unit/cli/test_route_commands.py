"""`fleetplane routes` over a scripted daemon."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from controlplane.cli.outcomes import WrongInput
from controlplane.cli.routes import basis_points, percent, read_shares
from fleetplane.v1 import routing_service_pb2 as pb
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

ROUTE = pb.Route(
    agent_name="writer",
    shares=[
        pb.RouteShare(version="2.1.0", weight_bp=1250, agent_id="a2"),
        pb.RouteShare(version="2.0.0", weight_bp=8750, agent_id="a1"),
    ],
    set_by="ops",
    reason="try it",
    revision=7,
)


@pytest.mark.parametrize(
    ("text", "points"),
    [("10", 1000), ("12.5", 1250), ("33.34%", 3334), ("0", 0), (" 100 % ", 10_000)],
)
def test_a_share_is_percent_exact_to_a_hundredth(text: str, points: int) -> None:
    assert basis_points(text, "x") == points


@pytest.mark.parametrize("text", ["", "a tenth", "0.001", "-1", "101", "nan", "inf"])
def test_any_other_share_is_refused(text: str) -> None:
    with pytest.raises(WrongInput, match="not a share in percent"):
        basis_points(text, "x")


def test_shares_keep_their_order_and_are_everything() -> None:
    assert list(read_shares(["b=10", "a=90"]).items()) == [("b", 1000), ("a", 9000)]
    with pytest.raises(WrongInput, match="99 % together"):
        read_shares(["b=10", "a=89"])
    with pytest.raises(WrongInput, match="named twice"):
        read_shares(["a=50", "a=50"])
    assert percent(1250) == "12.5 %"


def test_a_route_is_set_and_shown(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("SetRoute", pb.SetRouteResponse(route=ROUTE))
    result = run("routes", "set", "writer", "2.1.0=12.5", "2.0.0=87.5", "--reason", "try it")
    assert "2.1.0    12.5 %" in result.stdout
    asked = daemon.last("SetRoute")
    assert [(one.version, one.weight_bp) for one in asked.shares] == [
        ("2.1.0", 1250),
        ("2.0.0", 8750),
    ]
    assert asked.reason == "try it"


def test_routes_are_listed_and_got(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("ListRoutes", pb.ListRoutesResponse(routes=[ROUTE], total_size=1))
    assert "2.1.0 12.5 %, 2.0.0 87.5 %" in run("routes", "list").stdout
    daemon.says("GetRoute", pb.GetRouteResponse(route=ROUTE))
    assert json.loads(run("routes", "get", "writer", "-o", "json").stdout)["revision"] == "7"
    daemon.says("ListRoutes", pb.ListRoutesResponse())
    assert "every active version" in run("routes", "list").stderr


def test_a_route_is_deleted_once(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("DeleteRoute", pb.DeleteRouteResponse(revision=9), pb.DeleteRouteResponse())
    assert "revision 9" in run("routes", "delete", "writer", "--expected-revision", "7").stdout
    assert daemon.last("DeleteRoute").expected_revision == 7
    assert "had no route" in run("routes", "delete", "writer").stdout
