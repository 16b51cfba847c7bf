"""Whatever is wrong with a request, the answer names it, and nothing is changed by it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status

from fleetplane.v1 import (
    access_service_pb2,
    agent_pb2,
    approval_service_pb2,
    audit_service_pb2,
    config_service_pb2,
    decision_service_pb2,
    experiment_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    routing_service_pb2,
    task_service_pb2,
)
from tests.e2e import (
    bad_access_requests,
    bad_approval_requests,
    bad_audit_requests,
    bad_config_requests,
    bad_decision_requests,
    bad_experiment_requests,
    bad_lifecycle_requests,
    bad_page_requests,
    bad_policy_requests,
    bad_policy_set_requests,
    bad_prompt_requests,
    bad_registry_requests,
    bad_rollout_requests,
    bad_task_requests,
)
from tests.e2e.bad_requests import Row, World
from tests.e2e.bad_world import world
from tests.fakes.daemon import Daemon, running_daemon

pytestmark = pytest.mark.xdist_group("bad input")

DEADLINE = 20.0  # seconds; refusals take a millisecond
ASKER = "local-admin"  # whoever asks where nobody has to say who he is

_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (registry_service_pb2, "RegistryService"),
        (config_service_pb2, "ConfigService"),
        (policy_service_pb2, "PolicyService"),
        (decision_service_pb2, "DecisionService"),
        (lifecycle_service_pb2, "LifecycleService"),
        (task_service_pb2, "TaskService"),
        (routing_service_pb2, "RoutingService"),
        (rollout_service_pb2, "RolloutService"),
        (experiment_service_pb2, "ExperimentService"),
        (identity_service_pb2, "IdentityService"),
        (access_service_pb2, "AccessService"),
        (namespace_service_pb2, "NamespaceService"),
        (prompt_service_pb2, "PromptService"),
        (approval_service_pb2, "ApprovalService"),
        (audit_service_pb2, "AuditService"),
    )
)
ROWS = (
    *bad_registry_requests.ROWS,
    *bad_page_requests.ROWS,
    *bad_config_requests.ROWS,
    *bad_policy_requests.ROWS,
    *bad_policy_set_requests.ROWS,
    *bad_decision_requests.ROWS,
    *bad_lifecycle_requests.ROWS,
    *bad_task_requests.ROWS,
    *bad_rollout_requests.ROWS,
    *bad_experiment_requests.ROWS,
    *bad_prompt_requests.ROWS,
    *bad_access_requests.ROWS,
    *bad_approval_requests.ROWS,
    *bad_audit_requests.ROWS,
)
METHODS = {method.name: method for service in _SERVICES for method in service.methods}


@dataclass(frozen=True)
class Refusal:
    """What came back."""

    code: str
    message: str
    reason: str = ""
    metadata: dict[str, str] | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plane:
    """A daemon with something in it, through a blocking channel: loops come and go per test."""

    channel: Any
    world: World
    made_at: int = 0
    """The newest entry of its audit when all was in it."""

    def send(self, method: str, *requests: Message | bytes) -> list[Any]:
        """Send requests to a method; return its answers, as bytes.

        Raises:
            grpc.RpcError: it refuses.
        """
        descriptor = METHODS[method]
        path = f"/{descriptor.containing_service.full_name}/{method}"
        raw = [r if isinstance(r, bytes) else r.SerializeToString() for r in requests]
        if descriptor.client_streaming:
            return list(self.channel.stream_stream(path)(iter(raw), timeout=DEADLINE))
        if descriptor.server_streaming:
            return list(self.channel.unary_stream(path)(raw[0], timeout=DEADLINE))
        return [self.channel.unary_unary(path)(raw[0], timeout=DEADLINE)]

    def refusal(self, method: str, *requests: Message | bytes) -> Refusal:
        with pytest.raises(grpc.RpcError) as raised:
            self.send(method, *requests)
        return refusal_of(raised.value)

    def events(self, *, after: int) -> list[audit_service_pb2.AuditEvent]:
        """Return what its audit has after an entry, oldest first."""
        pb = audit_service_pb2
        found: list[audit_service_pb2.AuditEvent] = []
        while True:
            request = pb.ListEventsRequest(
                namespace=self.world.namespace, after_sequence=after, oldest_first=True
            )
            page = pb.ListEventsResponse.FromString(self.send("ListEvents", request)[0])
            if not page.events:
                return found
            found += page.events
            after = page.events[-1].sequence

    def contents(self) -> tuple[Any, ...]:
        """Everything that a refused request could have changed.

        Not the revision of the namespace: what is refused leaves an entry in the audit.
        """
        where: Any = {"namespace": self.world.namespace}
        agents = registry_service_pb2.ListAgentsResponse.FromString(
            self.send(
                "ListAgents",
                registry_service_pb2.ListAgentsRequest(**where, include_instances=True),
            )[0]
        )
        policies = policy_service_pb2.ListPoliciesResponse.FromString(
            self.send("ListPolicies", policy_service_pb2.ListPoliciesRequest(**where))[0]
        )
        layers = config_service_pb2.ListConfigRevisionsResponse.FromString(
            self.send(
                "ListConfigRevisions", config_service_pb2.ListConfigRevisionsRequest(**where)
            )[0]
        )
        return (
            agents.total_size,
            [(a.agent_id, a.revision, len(a.instances)) for a in agents.agents],
            [(p.policy_id, p.revision) for p in policies.policies],
            [layer.revision for layer in layers.revisions],
        )


def refusal_of(error: Any) -> Refusal:
    status = rpc_status.from_call(error)
    code = error.code().name
    if status is None:
        return Refusal(code, error.details())
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    fields: tuple[str, ...] = ()
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            fields = tuple(v.field for v in bad.field_violations)
    assert info.domain == "fleetplane.dev"
    return Refusal(code, status.message, info.reason, dict(info.metadata), fields)


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    with running_daemon(grace_seconds=1.0) as daemon, _channel(daemon) as channel:
        empty = Plane(channel, world(channel, "crowded"))
        yield replace(empty, made_at=empty.events(after=0)[-1].sequence)


def _channel(daemon: Daemon) -> grpc.Channel:
    # Messages above 4 MiB must leave the client to be refused by the daemon.
    return grpc.insecure_channel(daemon.address, [("grpc.max_send_message_length", -1)])


def test_the_table_covers_every_method() -> None:
    assert {row.method for row in ROWS} == set(METHODS)
    assert len(ROWS) >= 60


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_wrong_request_is_refused_with_the_reason_and_changes_nothing(
    row: Row, plane: Plane
) -> None:
    before = plane.contents()
    refusal = plane.refusal(row.method, row.request(plane.world))
    assert (refusal.code, refusal.reason) == (row.code, row.reason), refusal
    if row.names:
        wanted = row.names.removesuffix("*")
        named = refusal.fields[0]
        assert named == wanted or (row.names.endswith("*") and named.startswith(wanted))
    else:
        assert refusal.fields == ()
    assert refusal.metadata is not None
    assert row.metadata.items() <= refusal.metadata.items()
    assert refusal.message
    assert plane.contents() == before


def test_all_wrong_fields_are_named_at_once(plane: Plane) -> None:
    request = registry_service_pb2.RegisterRequest(
        namespace=plane.world.namespace,
        agent_id="a b",
        spec=agent_pb2.AgentSpec(name="", version="one", max_concurrency=1_000_000),
        instance=registry_service_pb2.InstanceSpec(instance_id="i i"),
    )
    refusal = plane.refusal("Register", request)
    assert set(refusal.fields) == {
        "agent_id",
        "spec.name",
        "spec.version",
        "spec.max_concurrency",
        "instance.instance_id",
    }


def test_one_wrong_entry_of_a_batch_fails_alone_with_the_answer_of_the_single_call(
    plane: Plane,
) -> None:
    where = plane.world.namespace
    pb = registry_service_pb2
    spec = agent_pb2.AgentSpec(name="reader", version="1.0.0")
    entries = [
        pb.RegisterRequest(agent_id="agt-reader", spec=spec),  # in place already
        pb.RegisterRequest(spec=agent_pb2.AgentSpec(name="x", version="one")),
        pb.RegisterRequest(agent_id="another", spec=spec),
        pb.RegisterRequest(namespace="elsewhere", spec=spec),
    ]
    before = plane.contents()
    raw = plane.send("BatchRegister", pb.BatchRegisterRequest(namespace=where, requests=entries))
    good, malformed, taken, foreign = pb.BatchRegisterResponse.FromString(raw[0]).results
    assert good.registered.agent.agent_id == "agt-reader"
    assert not good.registered.created
    assert malformed.error.violations[0].field == "spec.version"
    assert taken.error.metadata["agent_id"] == "agt-reader"
    assert foreign.error.violations[0].field == "namespace"
    assert plane.contents() == before


def test_wrong_beats_are_answered_one_by_one_and_the_stream_goes_on(plane: Plane) -> None:
    world, pb = plane.world, registry_service_pb2
    beats = [
        pb.Beat(instance_id="box-1", generation=world.old_generation, seq=9),
        pb.Beat(instance_id="box-404", generation=world.generation, seq=1),
        pb.Beat(instance_id="box-1", generation=world.generation, seq=9, latency_ms=float("nan")),
        pb.Beat(instance_id="box-1", generation=world.generation, seq=9, progress_token="t" * 65),
    ]
    requests = [
        pb.HeartbeatRequest(namespace=world.namespace, batch=batch, beats=beats if batch else [])
        for batch in (1, 2)
    ]
    before = plane.contents()
    answers = [pb.HeartbeatResponse.FromString(raw) for raw in plane.send("Heartbeat", *requests)]
    assert [answer.batch for answer in answers] == [1, 2]
    outcomes = [pb.BeatResult.Outcome.Name(result.outcome) for result in answers[0].results]
    assert sorted(outcomes) == [
        "OUTCOME_FENCED",
        "OUTCOME_INVALID",
        "OUTCOME_INVALID",
        "OUTCOME_UNKNOWN",
    ]
    assert plane.contents() == before


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bytes_that_are_no_message_end_the_call_and_nothing_else(method: str, plane: Plane) -> None:
    before = plane.contents()
    refusal = plane.refusal(method, b"\xff\xfe\xfd not a message")
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), refusal
    assert plane.contents() == before


@pytest.mark.parametrize("method", ["Register", "Heartbeat", "UpdateConfig", "WatchConfig"])
def test_a_message_above_4_mib_is_refused_before_it_is_read(method: str, plane: Plane) -> None:
    request = b"\x0a" + b"\x80\x80\x80\x03" + b"n" * (6 * 1024 * 1024)  # field 1, 6 MiB of text
    before = plane.contents()
    refusal = plane.refusal(method, request)
    assert refusal.code == "RESOURCE_EXHAUSTED"
    assert "4194304" in refusal.message
    assert plane.contents() == before


def test_a_method_that_does_not_exist_is_unimplemented(plane: Plane) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        plane.channel.unary_unary("/fleetplane.v1.RegistryService/Unregister")(b"", timeout=20)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_after_all_of_it_nothing_was_written_but_that_it_was_refused(plane: Plane) -> None:
    """Also what no list shows: every change leaves an entry in the audit."""
    events = plane.events(after=plane.made_at)
    assert {event.event for event in events if event.actor == ASKER} <= {"call.refused"}
