"""Tasks between the wire and the domain."""

from collections.abc import Sequence

from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import collecting, request_key
from controlplane.api.convert.values import (
    EnumPair,
    bounded_ms,
    moment,
    ms_to_duration,
    ms_to_timestamp,
)
from controlplane.domain.errors import DomainError, FieldViolation, InvalidArgument
from controlplane.domain.task_limits import (
    MAX_ATTEMPT_TIMEOUT_MS,
    MAX_DEADLINE_MS,
    MIN_DURATION_MS,
    validate_spec,
)
from controlplane.domain.task_rules import Lease, validate_lease
from controlplane.domain.tasks import DrainAction, Hop, Task, TaskReason, TaskSpec, TaskState
from controlplane.services.ports import Position
from controlplane.services.tasks.delivery import Assignment, Revocation
from controlplane.services.tasks.tasks import Submission, TaskFilter
from fleetplane.v1 import task_service_pb2 as pb

MAX_BATCH = 500
"""Tasks of one call."""

MAX_FOLLOWED = 1_000
"""Tasks of one FollowTasks stream."""

_DEFAULT_ATTEMPTS = 3
"""What 0 means, by contract."""

STATES = EnumPair(pb.TaskState, "TASK_STATE_", TaskState)
DRAIN_ACTIONS = EnumPair(pb.DrainAction, "DRAIN_ACTION_", DrainAction)

_REASONS = {
    reason: pb.TaskReason.Value(
        f"TASK_REASON_{'UNSPECIFIED' if reason is TaskReason.NONE else reason.name}"
    )
    for reason in TaskReason
}


def spec_from_proto(spec: pb.TaskSpec, field: str = "spec") -> TaskSpec:
    """Return what is to be done, with the defaults of the contract; its texts are not judged.

    Raises:
        InvalidArgument: with a violation for every unknown value and every duration out of bounds.
    """
    wrong: list[FieldViolation] = []
    deadline_ms = attempt_timeout_ms = 0
    on_drain = DrainAction.REQUEUE
    with collecting(wrong):
        if spec.HasField("deadline"):
            deadline_ms = bounded_ms(
                spec.deadline,
                f"{field}.deadline",
                least=MIN_DURATION_MS,
                most=MAX_DEADLINE_MS,
                said="1 s - 30 days",
            )
    with collecting(wrong):
        if spec.HasField("attempt_timeout"):
            attempt_timeout_ms = bounded_ms(
                spec.attempt_timeout,
                f"{field}.attempt_timeout",
                least=MIN_DURATION_MS,
                most=MAX_ATTEMPT_TIMEOUT_MS,
                said="1 s - 24 h",
            )
    with collecting(wrong):
        on_drain = DRAIN_ACTIONS.from_wire(
            spec.on_drain, f"{field}.on_drain", unspecified=DrainAction.REQUEUE
        )
    if wrong:
        raise InvalidArgument(*wrong)
    return TaskSpec(
        kind=spec.kind,
        agent_name=spec.agent_name,
        capabilities=tuple(spec.capabilities),
        session_id=spec.session_id,
        submitter=spec.submitter,
        max_attempts=spec.max_attempts or _DEFAULT_ATTEMPTS,
        deadline_ms=deadline_ms,
        attempt_timeout_ms=attempt_timeout_ms,
        on_drain=on_drain,
    )


def spec_to_proto(spec: TaskSpec) -> pb.TaskSpec:
    """Return what is to be done."""
    return pb.TaskSpec(
        kind=spec.kind,
        agent_name=spec.agent_name,
        capabilities=spec.capabilities,
        session_id=spec.session_id,
        submitter=spec.submitter,
        max_attempts=spec.max_attempts,
        deadline=ms_to_duration(spec.deadline_ms) if spec.deadline_ms else None,
        attempt_timeout=(
            ms_to_duration(spec.attempt_timeout_ms) if spec.attempt_timeout_ms else None
        ),
        on_drain=DRAIN_ACTIONS.to_wire(spec.on_drain),
    )


def submission_from_proto(request: pb.SubmitTaskRequest) -> Submission:
    """Return what is submitted.

    Raises:
        InvalidArgument: with every wrong field.
    """
    if not request.HasField("spec"):
        raise InvalidArgument.of("spec", "is required")
    wrong: list[FieldViolation] = []
    spec = TaskSpec()
    with collecting(wrong):
        spec = spec_from_proto(request.spec)
        validate_spec(spec, len(request.payload))
    key = None
    with collecting(wrong):
        key = request_key(request, request.request_id)
    if wrong:
        raise InvalidArgument(*wrong)
    return Submission(spec=spec, payload=request.payload, request=key)


def submissions_from_proto(request: pb.BatchSubmitTasksRequest) -> list[Submission | DomainError]:
    """Return what each entry submits, or why it cannot.

    Raises:
        InvalidArgument: no entry, or more than 500.
    """
    if not 0 < len(request.tasks) <= MAX_BATCH:
        raise InvalidArgument.of("tasks", f"must hold 1-{MAX_BATCH} tasks")
    return [_entry_from_proto(entry) for entry in request.tasks]


def _entry_from_proto(entry: pb.SubmitTaskRequest) -> Submission | DomainError:
    if entry.namespace:
        return InvalidArgument.of("namespace", "must be empty: the batch names it")
    try:
        return submission_from_proto(entry)
    except DomainError as refusal:
        return refusal


def lease_from_proto(lease: pb.TaskLease) -> Lease:
    """Return the lease that a write of an instance names.

    Raises:
        InvalidArgument: with every part that is missing.
    """
    named = Lease(task_id=lease.task_id, instance_id=lease.instance_id, epoch=lease.epoch)
    validate_lease(named)
    return named


def filter_from_proto(request: pb.ListTasksRequest) -> TaskFilter:
    """Return which tasks are listed; an unspecified state among the states means any.

    Raises:
        InvalidArgument: naming every unknown state.
    """
    states: set[TaskState] = set()
    wrong: list[FieldViolation] = []
    for index, number in enumerate(request.states):
        state = STATES.get(number)
        if state is not None:
            states.add(state)
        elif number == pb.TASK_STATE_UNSPECIFIED:
            states.update(TaskState)
        else:
            wrong.append(FieldViolation(f"states[{index}]", "is not known here"))
    if wrong:
        raise InvalidArgument(*wrong)
    return TaskFilter(
        states=frozenset(states),
        agent_name=request.agent_name,
        agent_id=request.agent_id,
        instance_id=request.instance_id,
        submitter=request.submitter,
        session_id=request.session_id,
    )


def followed_from_proto(task_ids: Sequence[str]) -> tuple[str, ...]:
    """Return which tasks are followed, each once.

    Raises:
        InvalidArgument: none, more than 1,000, or an empty one.
    """
    if not 0 < len(task_ids) <= MAX_FOLLOWED:
        raise InvalidArgument.of("task_ids", f"must hold 1-{MAX_FOLLOWED:,} tasks")
    wrong = [
        FieldViolation(f"task_ids[{index}]", "must not be empty")
        for index, task_id in enumerate(task_ids)
        if not task_id
    ]
    if wrong:
        raise InvalidArgument(*wrong)
    return tuple(dict.fromkeys(task_ids))


def task_to_proto(task: Task, namespace: str) -> pb.Task:
    """Return a task, without its payload, checkpoint and result."""
    return pb.Task(
        task_id=task.task_id,
        namespace=namespace,
        spec=spec_to_proto(task.spec),
        state=STATES.to_wire(task.state),
        reason=_REASONS[task.reason],
        detail=task.detail,
        attempts=task.attempts,
        epoch=task.epoch,
        agent_id=task.agent_id,
        instance_id=task.instance_id,
        created_at=moment(task.created_at_ms),
        assigned_at=moment(task.assigned_at_ms),
        started_at=moment(task.started_at_ms),
        ended_at=moment(task.ended_at_ms),
        deadline_at=moment(task.deadline_at_ms),
        not_before=moment(task.not_before_ms),
        progress=task.progress,
        progress_message=task.progress_message,
        hops=[_hop_to_proto(hop) for hop in task.hops],
        hop_count=task.hop_count,
        revision=task.revision,
        payload_bytes=task.payload_bytes,
        checkpoint_bytes=task.checkpoint_bytes,
        result_bytes=task.result_bytes,
    )


def _hop_to_proto(hop: Hop) -> pb.TaskHop:
    return pb.TaskHop(
        epoch=hop.epoch,
        agent_id=hop.agent_id,
        instance_id=hop.instance_id,
        assigned_at=ms_to_timestamp(hop.assigned_at_ms),
        started_at=moment(hop.started_at_ms),
        ended_at=ms_to_timestamp(hop.ended_at_ms),
        reason=_REASONS[hop.reason],
        detail=hop.detail,
    )


def delivery_to_proto(
    event: Assignment | Revocation | Position, namespace: str
) -> pb.WatchTasksResponse:
    """Return what an instance is told; `go_away` is not an event of the domain."""
    match event:
        case Assignment():
            return pb.WatchTasksResponse(
                assignment=pb.TaskAssignment(
                    task=task_to_proto(event.task, namespace),
                    payload=event.payload,
                    checkpoint=event.checkpoint,
                    resumed=event.resumed,
                )
            )
        case Revocation():
            return pb.WatchTasksResponse(
                revoked=pb.TaskRevocation(
                    task_id=event.task_id, epoch=event.epoch, reason=_REASONS[event.reason]
                )
            )
        case Position():
            return pb.WatchTasksResponse(bookmark=position_to_proto(event))


def followed_to_proto(event: Task | Position, namespace: str) -> pb.FollowTasksResponse:
    """Return what a submitter is told; `go_away` is not an event of the domain."""
    if isinstance(event, Position):
        return pb.FollowTasksResponse(bookmark=position_to_proto(event))
    return pb.FollowTasksResponse(task=task_to_proto(event, namespace))
