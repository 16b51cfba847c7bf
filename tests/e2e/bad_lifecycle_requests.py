"""What the lifecycle and routes must refuse; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import lifecycle_service_pb2 as pb
from fleetplane.v1 import routing_service_pb2 as routing_pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, refused, wrong


def _of(request: Callable[[], Message], **stated: Any) -> Callable[..., Make]:
    """Return what makes requests of one type: `stated`, unless a row says otherwise."""

    def saying(**fields: Any) -> Make:
        return lambda w: ParseDict({"namespace": w.namespace} | stated | fields, request())

    return saying


def _moves() -> Iterator[Row]:
    moves: dict[str, Callable[[], Message]] = {
        "Activate": pb.ActivateRequest,
        "Deactivate": pb.DeactivateRequest,
        "Decommission": pb.DecommissionRequest,
    }
    for method, request in moves.items():
        move = _of(request, agentId="agt-reader", reason="a test")
        yield wrong(method, "nobody", "agent_id", move(agentId=""))
        yield wrong(method, "a long reason", "reason", move(reason="r" * 1_025))
        yield wrong(method, "a long request id", "request_id", move(requestId="r" * 129))
        yield refused(
            method,
            "an unknown agent",
            "NOT_FOUND",
            "AGENT_NOT_FOUND",
            move(agentId=NOWHERE),
            agent_id=NOWHERE,
        )
        yield refused(
            method,
            "a stale revision",
            "ABORTED",
            "REVISION_CONFLICT",
            move(expectedRevision=10**6),
            expected_revision=str(10**6),
        )
    deactivate = _of(pb.DeactivateRequest, agentId="agt-reader", reason="a test")
    for what, named, fields in (
        ("no reason", "reason", {"reason": ""}),
        ("a reason of 513 bytes", "reason", {"reason": "r" * 513}),
        ("a word of the plane", "reason", {"reason": "LOST"}),
        ("a drain of nothing", "drain_deadline", {"drainDeadline": "0s"}),
        ("a drain of 25 h", "drain_deadline", {"drainDeadline": "90000s"}),
    ):
        yield wrong("Deactivate", what, named, deactivate(**fields))
    yield refused(
        "Decommission",
        "an active agent",
        "FAILED_PRECONDITION",
        "INVALID_TRANSITION",
        _of(pb.DecommissionRequest, agentId="agt-writer")(),
        wanted_state="DECOMMISSIONED",
    )


def _drains() -> Iterator[Row]:
    drain = _of(pb.DrainRequest, agentId="agt-writer")
    get = _of(pb.GetDrainRequest, agentId="agt-writer")
    cancel = _of(pb.CancelDrainRequest, agentId="agt-writer")
    for method, say in (("Drain", drain), ("GetDrain", get), ("CancelDrain", cancel)):
        yield wrong(method, "nothing", "agent_id", say(agentId=""))
    yield wrong("Drain", "a deadline of nothing", "deadline", drain(deadline="0s"))
    yield wrong("Drain", "a deadline of 25 h", "deadline", drain(deadline="90000s"))
    yield wrong("Drain", "a long reason", "reason", drain(reason="r" * 513))
    yield wrong("GetDrain", "a wait of 11 min", "wait", get(wait="660s"))
    yield wrong("GetDrain", "a negative wait", "wait", get(wait="-1s"))
    yield wrong("CancelDrain", "a long reason", "reason", cancel(reason="r" * 513))
    yield refused(
        "Drain",
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        drain(agentId=NOWHERE),
        agent_id=NOWHERE,
    )
    yield refused(
        "Drain",
        "an unknown instance",
        "NOT_FOUND",
        "INSTANCE_NOT_FOUND",
        drain(agentId="", instanceId=NOWHERE),
        instance_id=NOWHERE,
    )
    yield refused(
        "Drain",
        "an agent that does not work yet",
        "FAILED_PRECONDITION",
        "INVALID_TRANSITION",
        drain(agentId="agt-reader"),
        current_state="REGISTERED",
    )
    for method, say in (("GetDrain", get), ("CancelDrain", cancel)):
        yield refused(
            method,
            "what is not drained",
            "NOT_FOUND",
            "DRAIN_NOT_FOUND",
            say(),
            agent_id="agt-writer",
        )


def _stops() -> Iterator[Row]:
    stop = _of(pb.EmergencyStopRequest, names=[NOWHERE], reason="a test")
    for what, named, fields in (
        ("nothing selected", "all", {"names": []}),
        ("all and some", "all", {"all": True}),
        ("no reason", "reason", {"reason": ""}),
        ("a long reason", "reason", {"reason": "r" * 513}),
        ("a word of the plane", "reason", {"reason": "STOPPED"}),
        ("a wait of 61 s", "wait", {"wait": "61s"}),
        ("a long request id", "request_id", {"requestId": "r" * 129}),
    ):
        yield wrong("EmergencyStop", what, named, stop(**fields))
    get = _of(pb.GetEmergencyStopRequest)
    yield wrong("GetEmergencyStop", "no stop", "stop_id", get())
    yield refused(
        "GetEmergencyStop",
        "an unknown stop",
        "NOT_FOUND",
        "STOP_NOT_FOUND",
        get(stopId=NOWHERE),
        stop_id=NOWHERE,
    )


def _routes() -> Iterator[Row]:
    whole = [{"version": "1.0.0", "weightBp": 10_000}]
    set_route = _of(routing_pb.SetRouteRequest, agentName="reader", shares=whole)

    def shares(*weights: int) -> Make:
        return set_route(
            shares=[
                {"version": f"{index}.0.0", "weightBp": weight}
                for index, weight in enumerate(weights)
            ]
        )

    yield wrong("SetRoute", "nobody", "agent_name", set_route(agentName=""))
    yield wrong("SetRoute", "no shares", "shares", shares())
    yield wrong("SetRoute", "17 shares", "shares", shares(*[0] * 16, 10_000))
    yield wrong("SetRoute", "shares of 90 %", "shares[1].weight_bp", shares(1_000, 8_000))
    yield wrong("SetRoute", "a share of 110 %", "shares[0].weight_bp", shares(11_000))
    yield wrong(
        "SetRoute",
        "no version",
        "shares[0].version",
        set_route(shares=[{"weightBp": 10_000}]),
    )
    yield wrong("SetRoute", "a version twice", "shares[1].version", set_route(shares=whole * 2))
    yield wrong("SetRoute", "a long reason", "reason", set_route(reason="r" * 1_025))
    yield refused(
        "SetRoute",
        "an unknown version",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        set_route(shares=[{"version": "9.9.9", "weightBp": 10_000}]),
    )
    get = _of(routing_pb.GetRouteRequest)
    delete = _of(routing_pb.DeleteRouteRequest, agentName="reader")
    yield wrong("GetRoute", "nobody", "agent_name", get())
    yield wrong("DeleteRoute", "nobody", "agent_name", delete(agentName=""))
    yield wrong("DeleteRoute", "a long reason", "reason", delete(reason="r" * 1_025))
    yield refused(
        "GetRoute",
        "no route",
        "NOT_FOUND",
        "ROUTE_NOT_FOUND",
        get(agentName=NOWHERE),
        agent_name=NOWHERE,
    )
    for method, say in (("SetRoute", set_route), ("DeleteRoute", delete)):
        yield refused(
            method,
            "a stale revision",
            "ABORTED",
            "REVISION_CONFLICT",
            say(expectedRevision=10**6),
            expected_revision=str(10**6),
        )
    owned: dict[str, Any] = {"agentName": "roller"}
    for method, say in (("SetRoute", set_route), ("DeleteRoute", delete)):
        yield refused(
            method,
            "a route that a rollout owns",
            "FAILED_PRECONDITION",
            "ROLLOUT_ACTIVE",
            say(**owned),
            agent_name="roller",
        )


ROWS: Final = (*_moves(), *_drains(), *_stops(), *_routes())
"""All of them."""
