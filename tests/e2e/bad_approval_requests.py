"""What approvals must refuse; see `bad_requests.py`."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import approval_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, deep, refused, wrong

_SINGLE: Final[dict[str, tuple[Callable[..., Message], dict[str, Any]]]] = {
    "GetApproval": (pb.GetApprovalRequest, {}),
    "WaitApproval": (pb.WaitApprovalRequest, {}),
    "DecideApproval": (pb.DecideApprovalRequest, {"decision": pb.APPROVAL_DECISION_GRANT}),
    "DelegateApproval": (pb.DelegateApprovalRequest, {"delegate": "user:ann"}),
    "CancelApproval": (pb.CancelApprovalRequest, {}),
    "RevokeApproval": (pb.RevokeApprovalRequest, {"reason": "no"}),
    "ExtendApproval": (
        pb.ExtendApprovalRequest,
        {"reason": "lunch", "expires_at": {"seconds": 1_700_000_000}},
    ),
}
"""Method -> its request, and what it needs besides an id."""


def _with(method: str, **fields: Any) -> Make:
    request, needed = _SINGLE[method]
    said = {"approval_id": NOWHERE} | needed | fields
    return lambda w: request(namespace=w.namespace, **said)


def _single() -> Iterator[Row]:
    for method in _SINGLE:
        yield wrong(method, "no approval", "approval_id", _with(method, approval_id=""))
        yield refused(
            method,
            "an unknown approval",
            "NOT_FOUND",
            "APPROVAL_NOT_FOUND",
            _with(method),
            approval_id=NOWHERE,
        )
    for method, what, named, fields in (
        ("WaitApproval", "waiting for a minute", "timeout", {"timeout": {"seconds": 60}}),
        ("WaitApproval", "waiting for less than nothing", "timeout", {"timeout": {"seconds": -1}}),
        ("DecideApproval", "no decision", "decision", {"decision": 0}),
        ("DecideApproval", "an unknown decision", "decision", {"decision": 99}),
        ("DecideApproval", "a long comment", "comment", {"comment": "c" * 4_097}),
        ("DecideApproval", "a long vote_id", "vote_id", {"vote_id": "v" * 129}),
        ("DecideApproval", "a vote_id that does not print", "vote_id", {"vote_id": "\n"}),
        ("DelegateApproval", "nobody", "delegate", {"delegate": ""}),
        ("DelegateApproval", "a long comment", "comment", {"comment": "c" * 4_097}),
        ("CancelApproval", "a long reason", "reason", {"reason": "r" * 1_025}),
        ("RevokeApproval", "no reason", "reason", {"reason": ""}),
        ("ExtendApproval", "no reason", "reason", {"reason": ""}),
        ("ExtendApproval", "no time", "expires_at", {"expires_at": None}),
    ):
        yield wrong(method, what, named, _with(method, **fields))


def _batches() -> Iterator[Row]:
    def batch(*decisions: dict[str, Any], **fields: Any) -> Make:
        return lambda w: pb.BatchDecideApprovalsRequest(
            namespace=w.namespace,
            decisions=[pb.DecideApprovalRequest(**one) for one in decisions],
            **fields,
        )

    one = {"approval_id": NOWHERE, "decision": pb.APPROVAL_DECISION_DENY}
    method = "BatchDecideApprovals"
    yield wrong(method, "nothing", "decisions", batch())
    yield wrong(method, "101 votes", "decisions", batch(*[one] * 101))
    yield wrong(method, "one twice", "decisions[1].approval_id", batch(one, one))
    yield wrong(method, "no decision", "decisions[0].decision", batch(one | {"decision": 0}))
    yield wrong(
        method, "another namespace", "decisions[0].namespace", batch(one | {"namespace": "other"})
    )
    yield refused(
        method,
        "an unknown one, all or nothing",
        "NOT_FOUND",
        "APPROVAL_NOT_FOUND",
        batch(one, all_or_nothing=True),
        approval_id=NOWHERE,
    )


def _uses() -> Iterator[Row]:
    def use(**fields: Any) -> Make:
        said: dict[str, Any] = {"approval_id": NOWHERE, "action": "pay", "consume_id": "c"}
        said |= fields
        return lambda w: pb.ConsumeApprovalRequest(
            **({"namespace": w.namespace, "agent_id": w.agent_id} | said)
        )

    method = "ConsumeApproval"
    for what, named, fields in (
        ("no approval", "approval_id", {"approval_id": ""}),
        ("nobody", "agent_id", {"agent_id": ""}),
        ("no action", "action", {"action": ""}),
        ("no consume_id", "consume_id", {"consume_id": ""}),
        ("a long consume_id", "consume_id", {"consume_id": "c" * 129}),
        ("a long session", "session_id", {"session_id": "s" * 257}),
        ("a deep context", "context.deep*", {"context": deep()}),
    ):
        yield wrong(method, what, named, use(**fields))
    yield refused(method, "an unknown agent", "NOT_FOUND", "AGENT_NOT_FOUND", use(agent_id=NOWHERE))
    yield refused(method, "an unknown approval", "NOT_FOUND", "APPROVAL_NOT_FOUND", use())


def _grants() -> Iterator[Row]:
    def grant(**fields: Any) -> Make:
        said = {
            "agentName": "reader",
            "action": "pay",
            "maxUses": 1,
            "expiresAt": "2000-01-01T00:00:00Z",
            "reason": "a night of it",
        } | fields
        return lambda w: ParseDict(
            {"namespace": w.namespace, "grant": said}, pb.CreateStandingGrantRequest()
        )

    method = "CreateStandingGrant"
    for what, named, fields in (
        ("an end in the past", "grant.expires_at", {}),
        ("an end next century", "grant.expires_at", {"expiresAt": "2100-01-01T00:00:00Z"}),
        ("nobody", "grant.agent_name", {"agentName": ""}),
        ("two agents", "grant.agent_name", {"agentId": "agt-reader"}),
        ("every agent", "grant.agent_name", {"agentName": "*"}),
        ("no action", "grant.action", {"action": ""}),
        ("every action", "grant.action", {"action": "**"}),
        ("no uses", "grant.max_uses", {"maxUses": 0}),
        ("51 uses", "grant.max_uses", {"maxUses": 51}),
    ):
        yield wrong(method, what, named, grant(**fields))
    yield wrong(
        method,
        "no end",
        "grant.expires_at",
        lambda w: pb.CreateStandingGrantRequest(namespace=w.namespace),
    )
    yield wrong(method, "a long reason", "grant.reason", grant(reason="r" * 1_025))
    revoke = "RevokeStandingGrant"
    yield wrong(
        revoke,
        "no grant",
        "grant_id",
        lambda w: pb.RevokeStandingGrantRequest(namespace=w.namespace),
    )
    yield refused(
        revoke,
        "an unknown grant",
        "NOT_FOUND",
        "STANDING_GRANT_NOT_FOUND",
        lambda w: pb.RevokeStandingGrantRequest(namespace=w.namespace, grant_id=NOWHERE),
        grant_id=NOWHERE,
    )


def _lists() -> Iterator[Row]:
    lists: dict[str, Callable[..., Message]] = {
        "ListApprovals": pb.ListApprovalsRequest,
        "ListStandingGrants": pb.ListStandingGrantsRequest,
    }
    for method, request in lists.items():

        def page(*, _request: Callable[..., Message] = request, **fields: Any) -> Make:
            return lambda w: _request(namespace=w.namespace, **fields)

        yield wrong(method, "1,001 per page", "page_size", page(page_size=1_001))
        yield wrong(
            method,
            "a cursor out of thin air",
            "page_token",
            page(page_token="AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),  # noqa: S106 - opaque, no secret
            reason="INVALID_CURSOR",
        )
    for method, asked in (
        ("ListApprovals", pb.ListApprovalsRequest),
        ("WatchApprovals", pb.WatchApprovalsRequest),
    ):

        def filtered(_request: Callable[..., Message] = asked) -> Make:
            chosen = pb.ApprovalFilter(
                states=[pb.APPROVAL_STATE_PENDING, 99]  # type: ignore[list-item]  # unknown
            )
            return lambda w: _request(namespace=w.namespace, filter=chosen)

        yield wrong(method, "an unknown state", "filter.states[1]", filtered())


ROWS: Final = (*_single(), *_batches(), *_uses(), *_grants(), *_lists())
"""All of them."""
