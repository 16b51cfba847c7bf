"""Tasks as tables and sentences."""

from collections.abc import Iterable
from typing import Final

from controlplane.cli.contract_words import word
from controlplane.cli.durations import between, compact, seconds_of
from controlplane.cli.moments import ago, moment
from controlplane.cli.rendering import Column, fields, table
from controlplane.cli.styles import Colour, coloured
from controlplane.cli.task_input import readable
from fleetplane import DrainAction, TaskReason, TaskState
from fleetplane.v1 import task_service_pb2 as pb

_COLUMNS: Final = (
    Column("TASK", flexible=True),
    Column("STATE"),
    Column("KIND", flexible=True),
    Column("FOR", flexible=True),
    Column("WITH", flexible=True),
    Column("ATTEMPTS", right=True),
    Column("DONE", right=True),
    Column("AGE", right=True),
    Column("TOOK", right=True),
    Column("WHY", flexible=True),
)


def ended(task: pb.Task) -> bool:
    """Return whether nothing happens to a task any more."""
    return TaskState(task.state).ended


def succeeded(task: pb.Task) -> bool:
    """Return whether a task has a result."""
    return TaskState(task.state) is TaskState.SUCCEEDED


def state_of(task: pb.Task) -> str:
    """Return the short name of a task's state."""
    return word(TaskState, task.state)


def reason_of(task: pb.Task) -> str:
    """Return why a task is where it is, with what the agent said about it."""
    reason = word(TaskReason, task.reason)
    return f"{reason}: {task.detail}" if reason and task.detail else reason or task.detail


def outcome(task: pb.Task) -> str:
    """Return a task's state and its reason, in a line."""
    why = reason_of(task)
    return f"{state_of(task)} ({why})" if why else state_of(task)


def wanted(task: pb.Task) -> str:
    """Return who may take a task: a name, capabilities, or both."""
    parts = [task.spec.agent_name, ",".join(task.spec.capabilities)]
    return " ".join(one for one in parts if one)


def tasks_table(tasks: Iterable[pb.Task]) -> str:
    """Lay out tasks, one per line."""
    return table(
        _COLUMNS,
        [
            (
                one.task_id,
                state_of(one),
                one.spec.kind,
                wanted(one),
                one.instance_id,
                f"{one.attempts}/{one.spec.max_attempts}",
                f"{one.progress:.0%}" if one.progress else "",
                ago(one.created_at),
                _took(one),
                reason_of(one),
            )
            for one in tasks
        ],
    )


def _took(task: pb.Task) -> str:
    if not ended(task) or not task.ended_at.seconds:
        return ""
    return compact(between(task.created_at, task.ended_at))


def task_details(task: pb.Task) -> str:
    """Lay out everything about a task, and the leases it had."""
    spec = task.spec
    holder = f"{task.agent_id} {task.instance_id}".strip()
    shown = fields(
        {
            "task": task.task_id,
            "state": state_of(task),
            "why": reason_of(task),
            "kind": spec.kind,
            "agent": spec.agent_name,
            "capabilities": ", ".join(spec.capabilities),
            "session": spec.session_id,
            "submitter": spec.submitter,
            "held by" if not ended(task) else "last with": holder,
            "attempts": f"{task.attempts} of {spec.max_attempts} (epoch {task.epoch})",
            "progress": f"{task.progress:.0%} {task.progress_message}" if task.progress else "",
            "submitted": moment(task.created_at),
            "assigned": moment(task.assigned_at),
            "started": moment(task.started_at),
            "not before": moment(task.not_before),
            "deadline": moment(task.deadline_at),
            "per attempt": _span(task),
            "on drain": word(DrainAction, spec.on_drain),
            "ended": moment(task.ended_at) + (f" after {_took(task)}" if _took(task) else ""),
            "bytes": _sizes(task),
        }
    )
    if not task.hops:
        return shown
    return f"{shown}\n\n{_hops(task)}"


def _span(task: pb.Task) -> str:
    if not task.spec.HasField("attempt_timeout"):
        return ""
    return compact(seconds_of(task.spec.attempt_timeout))


def _sizes(task: pb.Task) -> str:
    sizes = {
        "payload": task.payload_bytes,
        "checkpoint": task.checkpoint_bytes,
        "result": task.result_bytes,
    }
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)


def _hops(task: pb.Task) -> str:
    columns = (
        Column("EPOCH", right=True),
        Column("AGENT", flexible=True),
        Column("INSTANCE", flexible=True),
        Column("ASSIGNED"),
        Column("HELD", right=True),
        Column("ENDED BY", flexible=True),
    )
    rows = [
        (
            str(one.epoch),
            one.agent_id,
            one.instance_id,
            moment(one.assigned_at),
            compact(between(one.assigned_at, one.ended_at)),
            ": ".join(
                part for part in (word(TaskReason, one.reason) or "SUCCESS", one.detail) if part
            ),
        )
        for one in task.hops
    ]
    left_out = task.hop_count - len(task.hops)
    text = table(columns, rows)
    return f"{text}\n(and {left_out} older leases)" if left_out > 0 else text


def data_details(answer: pb.GetTaskResponse) -> str:
    """Lay out what a task carries."""
    parts = [
        f"{coloured(name.upper(), Colour.STRONG)}\n{readable(content)}"
        for name in ("payload", "checkpoint", "result")
        if (content := getattr(answer, name))
    ]
    return "\n\n".join(parts) or "It carries nothing."
