"""The SDK's watch of approvals: a change that comes in several messages is delivered whole."""

from fleetplane._approval_watch import ApprovalsChanged, ApprovalWatch
from fleetplane.v1 import approval_service_pb2 as pb


def part(number: int, revision: int) -> pb.WatchApprovalsResponse:
    response = pb.WatchApprovalsResponse()
    response.position.epoch = "e"
    response.position.revision = revision
    response.delta.approvals.add(approval_id=f"apr-{number}")
    return response


def test_parts_at_the_position_that_is_held_already_are_delivered() -> None:
    watch = ApprovalWatch(lambda _: None)
    seen: list[str] = []
    for message in (part(1, 5), part(2, 5), part(3, 6)):
        watch._receive(message)
        while watch._ready:
            event = watch._ready.popleft()
            watch._deliver(event)
            assert isinstance(event, ApprovalsChanged)
            seen += [one.approval_id for one in event.approvals]
    assert seen == ["apr-1", "apr-2", "apr-3"]
    assert watch.position.revision == 6
