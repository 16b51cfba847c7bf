"""What may be said about a task: limits of declarations, payloads, reports and reasons."""

import math
import re
from collections.abc import Iterator
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.selection import text_problem
from controlplane.domain.tasks import TaskSpec

MAX_TEXT_BYTES: Final = 256
"""Bytes of a kind, agent name, capability, session id and submitter."""

MAX_MESSAGE_BYTES: Final = 1_024
"""Bytes of a progress message, of the detail of a failure and of the reason of a cancellation."""

MAX_DATA_BYTES: Final = 256 * 1_024
"""Bytes of a payload, a checkpoint and a result, each: larger things belong into a blob store."""

MAX_CAPABILITIES: Final = 64
"""Capabilities a task may name: as many as an agent may have."""

MAX_ATTEMPTS_LIMIT: Final = 100
"""Largest `max_attempts`: beyond it a task that always fails is a load and no retry."""

MIN_DURATION_MS: Final = 1_000
"""Shortest deadline and attempt timeout: sweeps look about once a second."""

MAX_DEADLINE_MS: Final = 30 * 86_400_000
"""Longest deadline: 30 days."""

MAX_ATTEMPT_TIMEOUT_MS: Final = 86_400_000
"""Longest attempt timeout: a day."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What an agent may be called, see `registration`; another name could never be registered."""


def validate_spec(spec: TaskSpec, payload_bytes: int, *, field: str = "spec") -> None:
    """Check what is submitted; `field` is its path as the caller wrote it.

    Raises:
        InvalidArgument: with every violation: `<field>.kind`, `<field>.capabilities[3]` ..., and
            the payload beside it.
    """
    violations = tuple(_spec_violations(spec, payload_bytes, field))
    if violations:
        raise InvalidArgument(*violations)


def validate_progress(progress: float, message: str, checkpoint_bytes: int | None) -> None:
    """Check a report: `progress` 0-1, `message` at most 1 KiB, `checkpoint` at most 256 KiB.

    Raises:
        InvalidArgument: with every violation.
    """
    violations = []
    if not (math.isfinite(progress) and 0.0 <= progress <= 1.0):
        violations.append(FieldViolation("progress", "must be 0-1"))
    violations.extend(_text_violations("message", message, MAX_MESSAGE_BYTES))
    violations.extend(data_violations("checkpoint", checkpoint_bytes or 0))
    if violations:
        raise InvalidArgument(*violations)


def validate_message(field: str, text: str) -> None:
    """Check a text in words, such as the detail of a failure: at most 1 KiB.

    Raises:
        InvalidArgument: `field` is longer, or no Unicode.
    """
    violations = tuple(_text_violations(field, text, MAX_MESSAGE_BYTES))
    if violations:
        raise InvalidArgument(*violations)


def data_violations(field: str, size: int) -> Iterator[FieldViolation]:
    """Yield what is wrong with a payload, checkpoint or result of so many bytes."""
    if size > MAX_DATA_BYTES:
        limit = f"{MAX_DATA_BYTES} (256 KiB) are allowed"
        yield FieldViolation(field, f"has {size} bytes, at most {limit}")


def _spec_violations(spec: TaskSpec, payload_bytes: int, field: str) -> Iterator[FieldViolation]:
    for name in ("kind", "agent_name", "session_id", "submitter"):
        yield from _text_violations(f"{field}.{name}", getattr(spec, name), MAX_TEXT_BYTES)
    if spec.agent_name and _NAME.fullmatch(spec.agent_name) is None:
        what = "must be [A-Za-z0-9._-] and start with a letter or digit"
        yield FieldViolation(f"{field}.agent_name", what)
    if not spec.agent_name and not spec.capabilities:
        yield FieldViolation(f"{field}.agent_name", "is required without capabilities")
    yield from _capability_violations(spec.capabilities, f"{field}.capabilities")
    if not 1 <= spec.max_attempts <= MAX_ATTEMPTS_LIMIT:
        yield FieldViolation(f"{field}.max_attempts", f"must be 1-{MAX_ATTEMPTS_LIMIT}")
    if spec.deadline_ms and not MIN_DURATION_MS <= spec.deadline_ms <= MAX_DEADLINE_MS:
        yield FieldViolation(f"{field}.deadline", "must be 1 s - 30 days")
    timeout_ms = spec.attempt_timeout_ms
    if timeout_ms and not MIN_DURATION_MS <= timeout_ms <= MAX_ATTEMPT_TIMEOUT_MS:
        yield FieldViolation(f"{field}.attempt_timeout", "must be 1 s - 24 h")
    yield from data_violations(f"{field.removesuffix('spec')}payload", payload_bytes)


def _capability_violations(capabilities: tuple[str, ...], path: str) -> Iterator[FieldViolation]:
    if len(capabilities) > MAX_CAPABILITIES:
        what = f"has {len(capabilities)} entries, at most {MAX_CAPABILITIES} are allowed"
        yield FieldViolation(path, what)
        return
    for index, capability in enumerate(capabilities):
        problem = text_problem(capability, MAX_TEXT_BYTES, required=True)
        if problem is not None:
            yield FieldViolation(f"{path}[{index}]", problem)


def _text_violations(field: str, text: str, max_bytes: int) -> Iterator[FieldViolation]:
    problem = text_problem(text, max_bytes)
    if problem is not None:
        yield FieldViolation(field, problem)
