"""What tasks must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import task_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, refused, wrong

BIG: Final = b"x" * (256 * 1024 + 1)


def _submit(spec: dict[str, Any], **fields: Any) -> Make:
    declared = ParseDict({"agentName": "nobody-yet"} | spec, pb.TaskSpec())
    return lambda w: pb.SubmitTaskRequest(namespace=w.namespace, spec=declared, **fields)


def _submissions() -> Iterator[Row]:
    for what, named, spec in (
        ("a long kind", "spec.kind", {"kind": "k" * 257}),
        ("neither name nor capabilities", "spec.agent_name", {"agentName": ""}),
        ("a name with a space", "spec.agent_name", {"agentName": "a b"}),
        ("a name with a slash", "spec.agent_name", {"agentName": "a/b"}),
        ("65 capabilities", "spec.capabilities", {"capabilities": ["c"] * 65}),
        ("an empty capability", "spec.capabilities[1]", {"capabilities": ["a", ""]}),
        ("a long capability", "spec.capabilities[0]", {"capabilities": ["c" * 257]}),
        ("a long session", "spec.session_id", {"sessionId": "s" * 257}),
        ("a long submitter", "spec.submitter", {"submitter": "s" * 257}),
        ("101 attempts", "spec.max_attempts", {"maxAttempts": 101}),
        ("a deadline of nothing", "spec.deadline", {"deadline": "0s"}),
        ("a deadline of half a second", "spec.deadline", {"deadline": "0.5s"}),
        ("a deadline of 31 days", "spec.deadline", {"deadline": f"{31 * 86_400}s"}),
        ("a negative deadline", "spec.deadline", {"deadline": "-5s"}),
        ("an attempt of 25 h", "spec.attempt_timeout", {"attemptTimeout": "90000s"}),
        ("an attempt of nothing", "spec.attempt_timeout", {"attemptTimeout": "0s"}),
        ("an unknown class", "spec.on_drain", {"onDrain": 99}),
    ):
        yield wrong("SubmitTask", what, named, _submit(spec))
    yield wrong("SubmitTask", "a big payload", "payload", _submit({}, payload=BIG))
    yield wrong("SubmitTask", "a long request id", "request_id", _submit({}, request_id="r" * 129))
    yield wrong(
        "SubmitTask", "no spec", "spec", lambda w: pb.SubmitTaskRequest(namespace=w.namespace)
    )
    yield wrong(
        "SubmitTask",
        "an illegal namespace",
        "namespace",
        lambda _: pb.SubmitTaskRequest(namespace="No Such"),
    )
    yield refused(
        "SubmitTask",
        "a request id of something else",
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
        _submit({"kind": "other"}, request_id="used task"),
        request_id="used task",
    )
    for what, size in (("nothing", 0), ("501 tasks", 501)):
        yield wrong("BatchSubmitTasks", what, "tasks", _batch(size))


def _batch(size: int) -> Make:
    entry = pb.SubmitTaskRequest(spec=pb.TaskSpec(agent_name="nobody-yet"))
    return lambda w: pb.BatchSubmitTasksRequest(namespace=w.namespace, tasks=[entry] * size)


def _leases() -> Iterator[Row]:
    requests: dict[str, Any] = {
        "AcceptTask": pb.AcceptTaskRequest,
        "ReportProgress": pb.ReportProgressRequest,
        "CompleteTask": pb.CompleteTaskRequest,
        "FailTask": pb.FailTaskRequest,
    }
    for method, request in requests.items():

        def said(_request: Any = request, **fields: Any) -> Make:
            return lambda w: _request(
                namespace=w.namespace,
                lease=pb.TaskLease(task_id=w.task_id, instance_id="box-1", epoch=7),
                **fields,
            )

        def of(_request: Any = request, **lease: Any) -> Make:
            return lambda w: _request(namespace=w.namespace, lease=pb.TaskLease(**lease))

        yield wrong(method, "no lease", "lease.task_id", of())
        yield wrong(method, "no instance", "lease.instance_id", of(task_id="t", epoch=1))
        yield wrong(method, "no epoch", "lease.epoch", of(task_id="t", instance_id="box-1"))
        yield refused(
            method,
            "an unknown task",
            "NOT_FOUND",
            "TASK_NOT_FOUND",
            of(task_id=NOWHERE, instance_id="box-1", epoch=1),
            task_id=NOWHERE,
        )
        yield refused(
            method,
            "a lease that nobody was given",
            "FAILED_PRECONDITION",
            "LEASE_FENCED",
            said(),
            epoch="7",
            current_epoch="0",
            state="PENDING",
        )
        if method == "ReportProgress":
            nan = float("nan")
            yield wrong(method, "more than all", "progress", said(progress=1.5))
            yield wrong(method, "no number", "progress", said(progress=nan))
            yield wrong(method, "a long message", "message", said(message="m" * 1_025))
            yield wrong(method, "a big checkpoint", "checkpoint", said(checkpoint=BIG))
        if method == "CompleteTask":
            yield wrong(method, "a big result", "result", said(result=BIG))
        if method == "FailTask":
            yield wrong(method, "a long detail", "detail", said(detail="d" * 1_025))
            yield wrong(method, "both ways out", "release", said(permanent=True, release=True))


def _others() -> Iterator[Row]:
    def cancel(**fields: Any) -> Make:
        return lambda w: pb.CancelTaskRequest(
            **({"namespace": w.namespace, "task_id": w.task_id} | fields)
        )

    yield wrong("CancelTask", "no task", "task_id", cancel(task_id=""))
    yield wrong("CancelTask", "a long reason", "reason", cancel(reason="r" * 1_025))
    for method, request in (
        ("CancelTask", pb.CancelTaskRequest),
        ("GetTask", pb.GetTaskRequest),
    ):
        yield refused(
            method,
            "an unknown task",
            "NOT_FOUND",
            "TASK_NOT_FOUND",
            lambda w, request=request: request(  # type: ignore[misc]  # bound per row
                namespace=w.namespace, task_id=NOWHERE
            ),
            task_id=NOWHERE,
        )
    yield wrong("GetTask", "no task", "task_id", lambda w: pb.GetTaskRequest(namespace=w.namespace))
    yield wrong(
        "ListTasks",
        "an unknown state",
        "states[0]",
        lambda w: pb.ListTasksRequest(
            namespace=w.namespace,
            states=[99],  # type: ignore[list-item]  # unknown
        ),
    )

    def watch(**fields: Any) -> Make:
        return lambda w: pb.WatchTasksRequest(namespace=w.namespace, **fields)

    yield wrong("WatchTasks", "no instance", "instance_id", watch(generation=1))
    yield wrong("WatchTasks", "no generation", "generation", watch(instance_id="box-1"))
    yield refused(
        "WatchTasks",
        "an unknown instance",
        "NOT_FOUND",
        "INSTANCE_NOT_FOUND",
        watch(instance_id=NOWHERE, generation=1),
        instance_id=NOWHERE,
    )
    yield refused(
        "WatchTasks",
        "an old process",
        "FAILED_PRECONDITION",
        "INSTANCE_FENCED",
        lambda w: pb.WatchTasksRequest(
            namespace=w.namespace, instance_id="box-1", generation=w.old_generation
        ),
        instance_id="box-1",
    )

    def follow(*task_ids: str) -> Make:
        return lambda w: pb.FollowTasksRequest(namespace=w.namespace, task_ids=task_ids)

    yield wrong("FollowTasks", "nothing", "task_ids", follow())
    yield wrong("FollowTasks", "1,001 tasks", "task_ids", follow(*["t"] * 1_001))
    yield wrong("FollowTasks", "an empty id", "task_ids[1]", follow("t", ""))
    yield refused(
        "FollowTasks",
        "an unknown task",
        "NOT_FOUND",
        "TASK_NOT_FOUND",
        lambda w: pb.FollowTasksRequest(namespace=w.namespace, task_ids=[w.task_id, NOWHERE]),
        task_id=NOWHERE,
    )


ROWS: Final = (*_submissions(), *_leases(), *_others())
"""All of them."""
