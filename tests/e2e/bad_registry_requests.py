"""What the registry must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from fleetplane.v1 import registry_service_pb2 as registry_pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, World, refused, wrong


def _register(**fields: Any) -> Make:
    """A registration of newcomer@1.0.0; `spec__<field>` changes its declaration."""
    spec = {"name": "newcomer", "version": "1.0.0"}
    spec |= {k.removeprefix("spec__"): v for k, v in fields.items() if k.startswith("spec__")}
    rest = {k: v for k, v in fields.items() if not k.startswith("spec__")}

    def make(world: World) -> Message:
        return ParseDict(
            {"namespace": world.namespace, "spec": spec} | rest, registry_pb.RegisterRequest()
        )

    return make


def _registrations() -> Iterator[Row]:
    many = [f"c{i}" for i in range(65)]
    for what, named, fields in (
        ("no name", "spec.name", {"spec__name": ""}),
        ("a name with a space", "spec.name", {"spec__name": "new comer"}),
        ("a name of 257 bytes", "spec.name", {"spec__name": "n" * 257}),
        ("no version", "spec.version", {"spec__version": ""}),
        ("a version that is none", "spec.version", {"spec__version": "one"}),
        ("a description of 4,097 bytes", "spec.description", {"spec__description": "d" * 4097}),
        ("an owner of 257 bytes", "spec.owner", {"spec__owner": "o" * 257}),
        ("65 capabilities", "spec.capabilities", {"spec__capabilities": many}),
        ("a capability twice", "spec.capabilities[1]", {"spec__capabilities": ["a", "a"]}),
        ("an empty tool", "spec.tools[0]", {"spec__tools": [""]}),
        ("65 tags", "spec.tags", {"spec__tags": dict.fromkeys(many, "")}),
        ("a tag of 257 bytes", "spec.tags[k]", {"spec__tags": {"k": "v" * 257}}),
        ("an endpoint of no web", "spec.endpoint", {"spec__endpoint": "ftp://a"}),
        ("too many tasks", "spec.max_concurrency", {"spec__max_concurrency": 100_001}),
        ("a task of two days", "spec.timeout_seconds", {"spec__timeout_seconds": 172_800}),
        ("an unknown activation", "spec.activation", {"spec__activation": 99}),
        ("half a second of silence", "spec.degraded_after", {"spec__degraded_after": "0.5s"}),
        ("a negative silence", "spec.degraded_after", {"spec__degraded_after": "-5s"}),
        (
            "lost before degraded",
            "spec.lost_after",
            {"spec__degraded_after": "60s", "spec__lost_after": "30s"},
        ),
        ("an agent_id with a space", "agent_id", {"agent_id": "a b"}),
        ("an instance_id of 257", "instance.instance_id", {"instance": {"instance_id": "i" * 257}}),
        ("an instance nowhere", "instance.endpoint", {"instance": {"endpoint": "nowhere"}}),
        ("a request_id of 129 bytes", "request_id", {"request_id": "r" * 129}),
        ("an upper-case namespace", "namespace", {"namespace": "Upper"}),
        ("a namespace of 64 bytes", "namespace", {"namespace": "n" * 64}),
        ("a namespace with a slash", "namespace", {"namespace": "a/b"}),
    ):
        yield wrong("Register", what, named, _register(**fields))
    yield wrong(
        "Register", "no spec", "spec", lambda w: registry_pb.RegisterRequest(namespace=w.namespace)
    )
    yield refused(
        "Register",
        "a name@version of another agent",
        "ALREADY_EXISTS",
        "AGENT_EXISTS",
        _register(spec__name="reader", agent_id="another"),
        agent_id="agt-reader",
        name_version="reader@1.0.0",
    )
    yield refused(
        "Register",
        "an agent_id with other content",
        "ALREADY_EXISTS",
        "AGENT_EXISTS",
        _register(agent_id="agt-reader"),
        agent_id="agt-reader",
    )
    yield refused(
        "Register",
        "a request_id with other content",
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
        _register(request_id="used"),
        request_id="used",
    )


def _registry_writes() -> Iterator[Row]:
    def batch(size: int) -> Make:
        return lambda w: registry_pb.BatchRegisterRequest(
            namespace=w.namespace, requests=[registry_pb.RegisterRequest()] * size
        )

    yield wrong("BatchRegister", "no entry", "requests", batch(0))
    yield wrong("BatchRegister", "501 entries", "requests", batch(501))

    def leave(**fields: Any) -> Make:
        return lambda w: registry_pb.DeregisterRequest(namespace=w.namespace, **fields)

    yield wrong("Deregister", "nobody", "instance_id", leave())
    yield wrong("Deregister", "a long reason", "reason", leave(instance_id="b", reason="r" * 1025))
    yield refused(
        "Deregister",
        "a fenced generation",
        "FAILED_PRECONDITION",
        "INSTANCE_FENCED",
        lambda w: registry_pb.DeregisterRequest(
            namespace=w.namespace, instance_id="box-1", generation=w.old_generation
        ),
        instance_id="box-1",
    )

    def update(*paths: str, agent_id: str = "agt-reader", **fields: Any) -> Make:
        return lambda w: registry_pb.UpdateAgentRequest(
            namespace=w.namespace,
            agent_id=agent_id,
            update_mask=FieldMask(paths=paths),
            **fields,
        )

    yield wrong("UpdateAgent", "nobody", "agent_id", update("owner", agent_id=""))
    yield wrong("UpdateAgent", "no mask", "update_mask", update())
    yield wrong("UpdateAgent", "everything", "update_mask", update("*"))
    yield wrong("UpdateAgent", "its name", "update_mask", update("name"))
    yield wrong("UpdateAgent", "its status", "update_mask", update("status"))
    yield wrong("UpdateAgent", "a path within", "update_mask", update("tags.env"))
    yield wrong(
        "UpdateAgent",
        "an owner of 257 bytes",
        "spec.owner",
        update("owner", spec={"owner": "o" * 257}),
    )
    yield refused(
        "UpdateAgent",
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        update("owner", agent_id=NOWHERE),
        agent_id=NOWHERE,
    )
    yield refused(
        "UpdateAgent",
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        update("owner", spec={"owner": "new"}, expected_revision=1_000_000),
        expected_revision="1000000",
    )


def _selecting(method: str, **fields: Any) -> Make:
    request = getattr(registry_pb, f"{method}Request")
    return lambda w: ParseDict({"namespace": w.namespace} | fields, request())


def _registry_reads() -> Iterator[Row]:
    yield wrong("GetAgent", "nobody", "agent_id", lambda _: registry_pb.GetAgentRequest())
    yield refused(
        "GetAgent",
        "an unknown agent",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        lambda w: registry_pb.GetAgentRequest(namespace=w.namespace, agent_id=NOWHERE),
        agent_id=NOWHERE,
    )
    yield refused(
        "GetAgent",
        "an agent of another namespace",
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        lambda w: registry_pb.GetAgentRequest(namespace="elsewhere", agent_id=w.agent_id),
        agent_id="agt-reader",
    )
    for method in ("ListAgents", "Discover", "WatchAgents", "FindBestAgent"):
        for what, named, conditions in (
            ("an unknown status", "filter.statuses*", {"statuses": [99]}),
            ("a range that is none", "filter.version_range", {"version_range": ">>1"}),
            ("65 tags", "filter.tags", {"tags": {f"k{i}": "v" for i in range(65)}}),
            ("an empty capability", "filter.capabilities[0]", {"capabilities": [""]}),
        ):
            yield wrong(method, what, named, _selecting(method, filter=conditions))
        yield wrong(method, "an illegal namespace", "namespace", _selecting(method, namespace="Ä"))

    def best(**fields: Any) -> Make:
        return lambda w: registry_pb.FindBestAgentRequest(namespace=w.namespace, **fields)

    yield wrong("FindBestAgent", "statuses", "filter.statuses", best(filter={"statuses": [2]}))
    yield wrong("FindBestAgent", "much to explain", "max_explained", best(max_explained=101))
    yield wrong(
        "FindBestAgent", "a long task", "task_description", best(task_description="t" * 4097)
    )
    yield wrong("FindBestAgent", "a long session", "session_id", best(session_id="s" * 257))
    yield refused(
        "FindBestAgent",
        "nobody can",
        "NOT_FOUND",
        "NO_CANDIDATE",
        best(filter={"capabilities": ["fly"]}),
    )


def _beats() -> Iterator[Row]:
    def beat(**fields: Any) -> Make:
        return lambda w: registry_pb.HeartbeatRequest(namespace=w.namespace, **fields)

    yield wrong("Heartbeat", "batch 0", "batch", beat())
    many = [registry_pb.Beat(instance_id="i")] * 1001
    yield wrong("Heartbeat", "1,001 beats", "beats", beat(batch=1, beats=many))
    yield wrong(
        "Heartbeat",
        "an illegal namespace",
        "namespace",
        lambda _: registry_pb.HeartbeatRequest(namespace="No Such", batch=1),
    )


ROWS: Final = (*_registrations(), *_registry_writes(), *_registry_reads(), *_beats())
"""All of them."""
