"""When a drain is done, and what its deadline does to the tasks that are left.

A drain is done when nothing is in flight, by leases and by what the instances say themselves: the
leases are exact, the word of the instances is about work that the plane never saw. One word is not
enough, because it may have been on its way since before the drain began.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.drains import Drain, DrainPhase
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.tasks import DrainAction, Task, TaskState

MIN_DEADLINE_MS: Final = 1_000
"""Shortest time that work in flight may be given: two beats of a draining instance need it."""

MAX_DEADLINE_MS: Final = 86_400_000
"""Longest, 24 h: beyond, an operator has forgotten the drain."""

QUIET_MS: Final = 1_000
"""Least time between the two beats that say that nothing is in flight: draining instances are asked
to beat every second, so a beat that was on its way when the drain began cannot be both."""

MAX_EXTENSION_MS: Final = 3_600_000
"""How long a drain waits after its deadline for tasks of class EXTEND, 1 h. What is left then is
treated as REQUEUE: it goes on elsewhere, from its last checkpoint."""

MAX_REASON_BYTES: Final = 512
"""UTF-8 bytes of the reason of a drain or a stop; it becomes the `status_reason` of agents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one instance of the target last said about work that the plane did not assign."""

    heard_at_ms: int
    """When, on the store's clock; 0: it has not said anything yet."""
    outside: int


def require_deadline(deadline_ms: int, *, field: str = "deadline") -> None:
    """Raise InvalidArgument unless a drain may last that long."""
    if not MIN_DEADLINE_MS <= deadline_ms <= MAX_DEADLINE_MS:
        raise InvalidArgument.of(field, "must be 1 s - 24 h")


def require_reason(reason: str, *, field: str = "reason") -> None:
    """Raise InvalidArgument if a reason is too long."""
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise InvalidArgument.of(field, f"is longer than {MAX_REASON_BYTES} bytes")


def observed(drain: Drain, held: int, said: Iterable[Said], now_ms: int) -> Drain:
    """Return a drain that is under way, after a look at its target; itself if nothing follows.

    `held` is the number of leases that instances of the target hold, `said` the word of each that
    beats in time: the others cannot be waited for. DRAINED follows when all of them have said that
    nothing else is in flight in two beats at least `QUIET_MS` apart, both after the start, with no
    lease in between; at once where nobody beats and nobody holds a lease.
    """
    words = tuple(said)
    loud = held or any(w.outside or w.heard_at_ms <= drain.started_at_ms for w in words)
    if loud:
        return replace(drain, quiet_since_ms=0) if drain.quiet_since_ms else drain
    if not words:
        return done(drain, now_ms)
    if not drain.quiet_since_ms:
        return replace(drain, quiet_since_ms=max(w.heard_at_ms for w in words))
    if all(w.heard_at_ms >= drain.quiet_since_ms + QUIET_MS for w in words):
        return done(drain, now_ms)
    return drain


def done(drain: Drain, now_ms: int) -> Drain:
    """Return the drain DRAINED: nothing is in flight any more."""
    return replace(
        drain,
        phase=DrainPhase.DRAINED,
        ended_at_ms=now_ms,
        quiet_since_ms=drain.quiet_since_ms or now_ms,
        completed=ended_by_themselves(drain, 0),
    )


def ended_by_themselves(drain: Drain, held: int) -> int:
    """Return how many tasks in flight at the start have ended without the drain's doing."""
    return max(drain.held_at_start - held - drain.requeued - drain.failed, 0)


def action_now(drain: Drain, task: Task, now_ms: int) -> DrainAction | None:
    """Return what becomes of a task that is in flight; None: it may go on for now.

    EXTEND says that it outlives the deadline, which is worth counting once.
    """
    if now_ms < drain.deadline_at_ms:
        return None
    if task.state is not TaskState.RUNNING:
        return DrainAction.REQUEUE  # What has not begun may begin elsewhere, whatever its class.
    if task.spec.on_drain is not DrainAction.EXTEND:
        return task.spec.on_drain
    if now_ms < drain.deadline_at_ms + MAX_EXTENSION_MS:
        return DrainAction.EXTEND
    return DrainAction.REQUEUE
