"""What the policies must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict

from fleetplane.v1 import policy_service_pb2 as policy_pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, deep, nan, plain, refused, struct, wrong


def _decisions() -> Iterator[Row]:
    def ask(**fields: Any) -> Make:
        asked: dict[str, Any] = {"agent_id": "agt-reader", "action": "read"} | fields
        return lambda w: policy_pb.EvaluatePolicyRequest(namespace=w.namespace, **asked)

    yield wrong("EvaluatePolicy", "nobody", "agent_id", ask(agent_id=""))
    yield wrong("EvaluatePolicy", "no action", "action", ask(action=""))
    yield wrong("EvaluatePolicy", "an action with a space", "action", ask(action="do it"))
    yield wrong("EvaluatePolicy", "a long action", "action", ask(action="a" * 257))
    yield wrong("EvaluatePolicy", "a tool with a quote", "tool", ask(tool='"'))
    yield wrong("EvaluatePolicy", "no number", "context.cost", ask(context=nan("cost")))
    yield wrong(
        "EvaluatePolicy", "a huge context", "context", ask(context=struct(blob="b" * 70_000))
    )
    yield wrong("EvaluatePolicy", "a deep context", "context*", ask(context=deep()))
    yield wrong("EvaluatePolicy", "an unknown level", "explain", ask(explain=99))
    yield refused(
        "EvaluatePolicy",
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        ask(agent_id=NOWHERE),
        agent_id=NOWHERE,
    )

    def batch(size: int, **fields: Any) -> Make:
        item = policy_pb.EvaluationItem(agent_id="agt-reader", action="read")
        return lambda w: policy_pb.BatchEvaluatePolicyRequest(
            namespace=w.namespace, items=[item] * size, **fields
        )

    yield wrong("BatchEvaluatePolicy", "nothing", "items", batch(0))
    yield wrong("BatchEvaluatePolicy", "257 items", "items", batch(257))
    yield wrong("BatchEvaluatePolicy", "an unknown mode", "mode", batch(1, mode=99))


def _watches() -> Iterator[Row]:
    def watch(*agent_ids: str) -> Make:
        return lambda w: policy_pb.WatchPoliciesRequest(
            namespace=w.namespace,
            agents=[policy_pb.WatchedPolicyAgent(agent_id=one) for one in agent_ids],
        )

    yield wrong("WatchPolicies", "no agent", "agents", watch())
    yield wrong("WatchPolicies", "1,001 agents", "agents", watch(*map(str, range(1001))))
    yield wrong("WatchPolicies", "no agent_id", "agents[1].agent_id", watch("a", ""))
    yield wrong("WatchPolicies", "an agent twice", "agents[1].agent_id", watch("a", "a"))


def _policy(**fields: Any) -> policy_pb.Policy:
    stated = {"policy_id": "p-new", "action": "POLICY_ACTION_DENY"} | fields
    stated.setdefault("match_all", "conditions" not in fields)
    return ParseDict(stated, policy_pb.Policy())


def _policy_writes() -> Iterator[Row]:
    def create(**fields: Any) -> Make:
        return lambda w: policy_pb.CreatePolicyRequest(
            namespace=w.namespace, policy=_policy(**fields)
        )

    for what, named, fields in (
        ("no id", "policy.policy_id", {"policy_id": ""}),
        ("an id with a space", "policy.policy_id", {"policy_id": "p 1"}),
        ("no action", "policy.action", {"action": "POLICY_ACTION_UNSPECIFIED"}),
        ("an unknown action", "policy.action", {"action": 99}),
        ("an unknown on_missing", "policy.on_missing", {"on_missing": 99}),
        ("nothing to match", "policy*", {"match_all": False}),
        ("a priority of two million", "policy.priority", {"priority": 2_000_000}),
        ("two owners", "policy*", {"agent_name": "a", "agent_id": "b"}),
        (
            "a guardrail that allows",
            "policy.guardrail",
            {"guardrail": True, "action": "POLICY_ACTION_ALLOW"},
        ),
        (
            "an end before its beginning",
            "policy.not_*",
            {"not_before": "2026-01-02T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"},
        ),
        ("an unknown operator", "policy.conditions*", {"conditions": _leaf(op="resembles")}),
        ("a number for a prefix", "policy.conditions*", {"conditions": _leaf(op="startswith")}),
        ("a leaf without operator", "policy.conditions*", {"conditions": {"attr": "x"}}),
        ("an unknown key of a leaf", "policy.conditions*", {"conditions": _leaf(extra=1)}),
        ("an empty list", "policy.conditions*", {"conditions": {"environment": []}}),
        ("a limit that is no number", "policy.conditions*", {"conditions": {"cost_exceeds": "x"}}),
        ("70 KiB of conditions", "policy.conditions", {"conditions": {"a": "b" * 70_000}}),
        ("conditions too deep", "policy.conditions*", {"conditions": plain(deep())}),
        ("a name of 257 bytes", "policy.name", {"name": "n" * 257}),
    ):
        yield wrong("CreatePolicy", what, named, create(**fields))
    yield wrong(
        "CreatePolicy",
        "a condition on no number",
        "policy.conditions*",
        lambda w: policy_pb.CreatePolicyRequest(
            namespace=w.namespace,
            policy=policy_pb.Policy(
                policy_id="p", action=policy_pb.POLICY_ACTION_DENY, conditions=nan("cost_exceeds")
            ),
        ),
    )
    yield refused(
        "CreatePolicy",
        "an id that is taken",
        "ALREADY_EXISTS",
        "POLICY_EXISTS",
        create(policy_id="p-1"),
        policy_id="p-1",
    )


def _leaf(**fields: Any) -> dict[str, Any]:
    return {"attr": "environment", "op": "==", "value": 1} | fields


def _policy_changes() -> Iterator[Row]:
    def update(*paths: str, policy_id: str = "p-1", **fields: Any) -> Make:
        return lambda w: policy_pb.UpdatePolicyRequest(
            namespace=w.namespace,
            policy=policy_pb.Policy(policy_id=policy_id, priority=7),
            update_mask=FieldMask(paths=paths),
            **fields,
        )

    yield wrong("UpdatePolicy", "no id", "policy.policy_id", update("priority", policy_id=""))
    yield wrong("UpdatePolicy", "no mask", "update_mask", update())
    yield wrong("UpdatePolicy", "its id", "update_mask", update("policy_id"))
    yield wrong("UpdatePolicy", "its revision", "update_mask", update("revision"))
    yield wrong("UpdatePolicy", "an action of nothing", "policy.action", update("action"))

    def delete(**fields: Any) -> Make:
        return lambda w: policy_pb.DeletePolicyRequest(namespace=w.namespace, **fields)

    def get(**fields: Any) -> Make:
        return lambda w: policy_pb.GetPolicyRequest(namespace=w.namespace, **fields)

    yield wrong("DeletePolicy", "no id", "policy_id", delete())
    yield wrong("GetPolicy", "no id", "policy_id", get())
    for method, request in (
        ("UpdatePolicy", update("priority", policy_id=NOWHERE)),
        ("DeletePolicy", delete(policy_id=NOWHERE)),
        ("GetPolicy", get(policy_id=NOWHERE)),
    ):
        yield refused(
            method,
            "an unknown policy",
            "NOT_FOUND",
            "POLICY_NOT_FOUND",
            request,
            policy_id=NOWHERE,
        )
    stale = 1_000_000
    for method, request in (
        ("UpdatePolicy", update("priority", expected_revision=stale)),
        ("DeletePolicy", delete(policy_id="p-1", expected_revision=stale)),
    ):
        yield refused(
            method,
            "a stale revision",
            "ABORTED",
            "REVISION_CONFLICT",
            request,
            expected_revision=str(stale),
        )


ROWS: Final = (*_decisions(), *_watches(), *_policy_writes(), *_policy_changes())
"""All of them."""
