"""What is said about a task when it is submitted, and the bytes that travel with it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypedDict

from fleetplane._calls import new_request_id
from fleetplane._enums import DrainAction
from fleetplane._values import JsonValue, one_of, to_duration
from fleetplane.v1 import task_service_pb2 as pb

Data = bytes | bytearray | memoryview | str | JsonValue
"""Payload, checkpoint or result: bytes as they are, text as UTF-8, None as nothing, every other
value as JSON. At most 256 KiB."""


def to_bytes(value: Data) -> bytes:
    """Return a payload, checkpoint or result as it travels.

    Args:
        value: bytes as they are, text as UTF-8, None as nothing, every other value as JSON.

    Raises:
        TypeError: the value has no counterpart in JSON.
        ValueError: a number is not finite, or the text is no Unicode.
    """
    match value:
        case None:
            return b""
        case bytes():
            return value
        case bytearray() | memoryview():
            return bytes(value)
        case str():
            return value.encode()
        case _:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()


class TaskFields(TypedDict, total=False):
    """The fields of `TaskSubmission` besides kind, payload and request id; see there."""

    agent_name: str
    capabilities: str | Sequence[str]
    session_id: str
    submitter: str
    max_attempts: int
    deadline: float | timedelta | None
    attempt_timeout: float | timedelta | None
    on_drain: DrainAction


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmission:
    """One task to submit. Checked by the daemon."""

    kind: str = ""
    """Which handler is meant, such as `summarize`. At most 256 bytes."""
    payload: Data = b""
    """What the handler needs: bytes, text, or anything that JSON can say. At most 256 KiB."""
    agent_name: str = ""
    """Agent that must take it. Empty: any with the capabilities. One of both is required."""
    capabilities: str | Sequence[str] = ()
    """What the agent must be able to do. At most 64."""
    session_id: str = ""
    """Tasks of one session go to one version of an agent."""
    submitter: str = ""
    """On whose behalf; tasks are assigned in turn between submitters. Empty: the caller."""
    max_attempts: int = 0
    """Attempts before it fails for good, 1-100; 0 means 3."""
    deadline: float | timedelta | None = None
    """Longest time from submission to the end in seconds, 1 s - 30 days. None: no limit."""
    attempt_timeout: float | timedelta | None = None
    """Longest time of one attempt in seconds, 1 s - 24 h. None: no limit."""
    on_drain: DrainAction = DrainAction.REQUEUE
    """What a drain does to it at its deadline."""
    request_id: str = ""
    """Makes a retry safe. Empty: a new one."""

    def to_message(self) -> pb.SubmitTaskRequest:
        """Return the task as it travels.

        Raises:
            TypeError: a value has the wrong type, or the payload has no counterpart in JSON.
            ValueError: a time is negative.
        """
        spec = pb.TaskSpec(
            kind=self.kind,
            agent_name=self.agent_name,
            capabilities=one_of(self.capabilities),
            session_id=self.session_id,
            submitter=self.submitter,
            max_attempts=self.max_attempts,
            deadline=to_duration(self.deadline),
            attempt_timeout=to_duration(self.attempt_timeout),
            on_drain=pb.DrainAction.ValueType(self.on_drain),
        )
        return pb.SubmitTaskRequest(
            spec=spec,
            payload=to_bytes(self.payload),
            request_id=self.request_id or new_request_id(),
        )


def submission(
    kind: str, payload: Data, request_id: str, fields: Mapping[str, Any]
) -> TaskSubmission:
    """Build a submission from the arguments of a call.

    Raises:
        TypeError: a task has no such field.
    """
    if unknown := set(fields) - _FIELDS:
        raise TypeError(f"a task has no field {', '.join(sorted(unknown))}")
    return TaskSubmission(kind=kind, payload=payload, request_id=request_id, **fields)


_FIELDS: Final = frozenset(TaskFields.__annotations__)
