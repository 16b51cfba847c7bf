"""Page sizes and cursors that must be refused; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

from fleetplane.v1 import config_service_pb2 as config_pb
from fleetplane.v1 import experiment_service_pb2 as experiment_pb
from fleetplane.v1 import policy_service_pb2 as policy_pb
from fleetplane.v1 import registry_service_pb2 as registry_pb
from fleetplane.v1 import rollout_service_pb2 as rollout_pb
from fleetplane.v1 import routing_service_pb2 as routing_pb
from fleetplane.v1 import task_service_pb2 as task_pb
from tests.e2e.bad_requests import (
    Make,
    Row,
    World,
    wrong,
)


def _paged(method: str, request: Callable[..., Message]) -> Iterator[Row]:
    def page(**fields: Any) -> Make:
        return lambda w: request(namespace=w.namespace, **fields)

    def token(make: Callable[[World], str], **fields: Any) -> Make:
        return lambda w: request(namespace=w.namespace, page_token=make(w), **fields)

    yield wrong(method, "1,001 per page", "page_size", page(page_size=1001))
    for what, forge in (
        ("a cursor out of thin air", lambda _: "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("a cursor that is no base64", lambda _: "%%%"),
        ("a truncated cursor", lambda w: w.tokens[method][:-3]),
        ("a changed cursor", lambda w: _changed(w.tokens[method])),
        ("a cursor of another namespace", lambda w: w.tokens["elsewhere"]),
        (
            "a cursor of another method",
            lambda w: w.tokens["ListPolicies" if method != "ListPolicies" else "ListAgents"],
        ),
    ):
        yield wrong(method, what, "page_token", token(forge), reason="INVALID_CURSOR")
    others: dict[str, dict[str, Any]] = {
        "ListAgents": {"filter": {"owner": "somebody"}},
        "ListPolicies": {"enabled_only": True},
        "ListConfigRevisions": {"scope": {"agent_name": "reader"}},
        "Discover": {"filter": {"owner": "somebody"}},
        "ListTasks": {"submitter": "somebody"},
        "ListRollouts": {"active_only": True},
        "ListExperiments": {"prompt": "somebodys"},
    }
    if method not in others:
        return
    yield wrong(
        method,
        "a cursor of other arguments",
        "page_token",
        token(lambda w: w.tokens[method], **others[method]),
        reason="INVALID_CURSOR",
    )


def _changed(token: str) -> str:
    """Return a token of the same length with another character in its middle."""
    middle = len(token) // 2
    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]


def _pages() -> Iterator[Row]:
    yield from _paged("ListAgents", registry_pb.ListAgentsRequest)
    yield from _paged("Discover", registry_pb.DiscoverRequest)
    yield from _paged("ListConfigRevisions", config_pb.ListConfigRevisionsRequest)
    yield from _paged("ListPolicies", policy_pb.ListPoliciesRequest)
    yield from _paged("ListPolicyRevisions", policy_pb.ListPolicyRevisionsRequest)
    yield from _paged("ListTasks", task_pb.ListTasksRequest)
    yield from _paged("ListRoutes", routing_pb.ListRoutesRequest)
    yield from _paged("ListRollouts", rollout_pb.ListRolloutsRequest)
    yield from _paged("ListExperiments", experiment_pb.ListExperimentsRequest)


ROWS: Final = tuple(_pages())
"""All of them."""
