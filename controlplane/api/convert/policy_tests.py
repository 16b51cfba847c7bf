"""Tests of policies between the wire and the domain."""

from collections.abc import Iterable, Mapping

from controlplane.api.convert.policies import EFFECTS
from controlplane.api.convert.values import (
    json_to_struct,
    ms_to_timestamp,
    struct_to_json,
    timestamp_to_ms,
)
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policy_sets.tests import MAX_TEST_BYTES, PolicyTest, TestAgent
from fleetplane.v1 import policy_service_pb2 as pb

_NOBODY = TestAgent()


def tests_from_proto(tests: Iterable[pb.PolicyTest], field: str) -> tuple[PolicyTest, ...]:
    """Return tests; what they ask is judged by the domain.

    Raises:
        InvalidArgument: under `field`: no expected answer, a context that is too large or no JSON.
    """
    return tuple(_test(test, f"{field}[{position}]") for position, test in enumerate(tests))


def _test(test: pb.PolicyTest, field: str) -> PolicyTest:
    if test.context.ByteSize() > MAX_TEST_BYTES:
        raise InvalidArgument.of(f"{field}.context", f"is larger than {MAX_TEST_BYTES} bytes")
    agent = test.agent
    checked = test.check_determining or test.determining
    return PolicyTest(
        name=test.name,
        action=test.action,
        effect=EFFECTS.from_wire(test.expect, f"{field}.expect"),
        agent_id=test.agent_id,
        agent=TestAgent(
            name=agent.name,
            version=agent.version,
            owner=agent.owner,
            model=agent.model,
            status=agent.status or _NOBODY.status,
            tags=dict(agent.tags),
            capabilities=tuple(agent.capabilities),
            tools=tuple(agent.tools),
        ),
        tool=test.tool,
        context=struct_to_json(test.context, f"{field}.context"),
        now_ms=timestamp_to_ms(test.now, f"{field}.now") if test.HasField("now") else None,
        determining=tuple(test.determining) if checked else None,
    )


def test_to_proto(test: PolicyTest) -> pb.PolicyTest:
    """Return a test as a message."""
    agent = test.agent
    return pb.PolicyTest(
        name=test.name,
        action=test.action,
        tool=test.tool,
        agent_id=test.agent_id,
        agent=None
        if test.agent_id
        else pb.PolicyTestAgent(
            name=agent.name,
            version=agent.version,
            owner=agent.owner,
            model=agent.model,
            status=agent.status,
            tags=agent.tags,
            capabilities=agent.capabilities,
            tools=agent.tools,
        ),
        context=json_to_struct(test.context),
        now=None if test.now_ms is None else ms_to_timestamp(test.now_ms),
        expect=EFFECTS.to_wire(test.effect),
        determining=test.determining or (),
        check_determining=test.determining is not None,
    )


def test_list_to_proto(tests: Iterable[PolicyTest]) -> pb.PolicyTestList:
    """Return tests as a message."""
    return pb.PolicyTestList(tests=[test_to_proto(test) for test in tests])


def failures_to_proto(failed: Mapping[str, str] | None) -> list[pb.PolicyTestFailure]:
    """Return why tests fail as messages."""
    return [pb.PolicyTestFailure(name=name, why=why) for name, why in (failed or {}).items()]
