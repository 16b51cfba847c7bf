"""When silence means something: deadlines, states, stalls, error rates.

Only the store's clock judges silence (an instance's deadline passed there); the rules here say what
follows. An instance goes

    STARTING --beat--> FRESH --degraded_after--> SILENT --lost_after--> LOST --forget_after--> gone

(STARTING goes straight to LOST after `lost_after` without any beat), and a beat brings every one of
them back to FRESH. Mass silence is judged in `mass_expiry`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from controlplane.domain.agents import (
    LOST,
    STOPPED,
    Agent,
    AgentSpec,
    AgentStatus,
    Instance,
    InstanceState,
)

BEATS_PER_GRANT: Final = 3
"""Beats that fit into the silence an instance is granted: one may be lost and one late."""

MIN_INTERVAL_MS: Final = 100
"""Shortest interval ever asked for: beats are flushed ten times a second."""

Mark = tuple[int, int, float]
"""Counters at a moment: (completed, failed, monotonic seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessSettings:
    """How silence is judged. Times are milliseconds, shares 0-1.

    Raises ValueError when the times contradict each other.
    """

    interval_ms: int = 10_000
    """How often an instance beats. 100 ms - a third of `degraded_after_ms`."""
    degraded_after_ms: int = 30_000
    """Silence before SILENT; an agent without a fresh instance is then DEGRADED. Covers two missed
    beats, the detection of a dead connection and a store fail-over. 1 s - 24 h."""
    lost_after_ms: int = 300_000
    """Silence before LOST; an agent whose instances are all lost is then INACTIVE. Longer than
    `degraded_after_ms`, at most 7 days."""
    forget_after_ms: int = 86_400_000
    """How long the record of a LOST instance stays, so that restarts do not pile up records."""
    suspect_after_missed: int = 2
    """Missed beats before an instance counts as silent in the census of mass expiry. At least 1."""
    stalled_after_ms: int = 60_000
    """How long a progress token may stand still while tasks are in flight."""
    error_window_ms: int = 300_000
    """Span of the error rate; it covers the last half to whole of it."""
    max_beats_per_second: int | None = None
    """Stretch the interval of a namespace so that it sends at most this many beats; the interval
    never exceeds a third of the grant. None: no stretching."""
    mass_minimum: int = 10
    """Smallest number of instances whose common silence is suspicious."""
    mass_slow_share: float = 0.55
    """Share of silent instances from which expiry is slowed down."""
    mass_stop_share: float = 1.0
    """Share from which expiry stops and an alarm is raised."""
    mass_hysteresis: float = 0.1
    """How far the share must fall below a threshold before that threshold is left."""
    sweep_rate: float = 1000.0
    """Expiries per second, namespace and replica."""
    slowed_factor: float = 0.1
    """What is left of `sweep_rate` while expiry is slowed down."""
    slowed_share: float = 0.01
    """Share of the instances that may expire per second while it is slowed down; the smaller of
    both counts, but at least one per second."""
    freeze_gap_ms: int = 2_000
    """If nobody looked at the deadlines for longer, the store or every replica was away. Four times
    the mean pause of one replica; short, because an outage that goes unnoticed comes out of what
    instances are granted. More than the longest pause between two sweeps (750 ms)."""

    def __post_init__(self) -> None:
        if not MIN_INTERVAL_MS <= self.interval_ms <= self.degraded_after_ms // BEATS_PER_GRANT:
            raise ValueError(
                f"interval_ms must be {MIN_INTERVAL_MS} - a third of degraded_after_ms"
            )
        if self.lost_after_ms <= self.degraded_after_ms:
            raise ValueError("lost_after_ms must be longer than degraded_after_ms")
        if self.suspect_after_missed < 1:
            raise ValueError("suspect_after_missed must be at least 1")
        if not 0 < self.mass_slow_share <= self.mass_stop_share <= 1:
            raise ValueError("shares must satisfy 0 < mass_slow_share <= mass_stop_share <= 1")

    @property
    def grace_ms(self) -> int:
        """How long nobody expires after an outage of the plane: the time everybody has to beat."""
        return self.degraded_after_ms

    def suspect_after(self, grant_ms: int) -> int:
        """Return the silence (ms) from which an instance with this grant is suspected.

        It comes before the judgement, so that mass silence is seen before its first victim; but
        not before two thirds of the grant, for agents that beat more slowly than they are asked.
        """
        return min(grant_ms, max(self.interval_ms * self.suspect_after_missed, grant_ms * 2 // 3))

    def degraded_after(self, spec: AgentSpec) -> int:
        """Return the silence (ms) that an instance of this agent may keep and still be FRESH."""
        return spec.degraded_after_ms or self.degraded_after_ms

    def lost_after(self, spec: AgentSpec) -> int:
        """Return the silence (ms) after which it is LOST; always longer than `degraded_after`."""
        return max(spec.lost_after_ms or self.lost_after_ms, self.degraded_after(spec) + 1)

    def deadline_after(self, state: InstanceState, spec: AgentSpec) -> int:
        """Return how long after entering `state` its deadline lies, in milliseconds."""
        match state:
            case InstanceState.STARTING:
                return self.lost_after(spec)
            case InstanceState.FRESH:
                return self.degraded_after(spec)
            case InstanceState.SILENT:
                return self.lost_after(spec) - self.degraded_after(spec)
            case InstanceState.LOST:
                return self.forget_after_ms

    def silence_at_deadline(self, state: InstanceState, spec: AgentSpec) -> int:
        """Return the silence (ms) of an instance at the moment its deadline in `state` comes.

        `deadline - silence_at_deadline` is its last beat: how a restarted replica knows it.
        """
        match state:
            case InstanceState.STARTING | InstanceState.SILENT:
                return self.lost_after(spec)
            case InstanceState.FRESH:
                return self.degraded_after(spec)
            case InstanceState.LOST:
                return self.lost_after(spec) + self.forget_after_ms

    def interval_for(self, grant_ms: int, instances: int) -> int:
        """Return how often (ms) instances with this grant beat in a namespace of that size."""
        interval = self.interval_ms
        if self.max_beats_per_second is not None:
            interval = max(interval, instances * 1000 // self.max_beats_per_second)
        return max(MIN_INTERVAL_MS, min(interval, grant_ms // BEATS_PER_GRANT))


def next_state(
    instance: Instance, spec: AgentSpec, settings: LivenessSettings, *, silence_ms: int
) -> InstanceState | None:
    """Return the state of an instance after that much silence; None when it is to be forgotten.

    One step at a time: whoever was away for long is SILENT before it is LOST, so that every agent
    is DEGRADED before it is INACTIVE. A process that never beat was never fresh and goes straight
    from STARTING to LOST.
    """
    match instance.state:
        case InstanceState.STARTING:
            lost = silence_ms >= settings.lost_after(spec)
            return InstanceState.LOST if lost else InstanceState.STARTING
        case InstanceState.FRESH:
            silent = silence_ms >= settings.degraded_after(spec)
            return InstanceState.SILENT if silent else InstanceState.FRESH
        case InstanceState.SILENT:
            lost = silence_ms >= settings.lost_after(spec)
            return InstanceState.LOST if lost else InstanceState.SILENT
        case InstanceState.LOST:
            gone = silence_ms >= settings.lost_after(spec) + settings.forget_after_ms
            return None if gone else InstanceState.LOST


def _fresh(states: Iterable[InstanceState]) -> bool:
    return any(state is InstanceState.FRESH for state in states)


def after_silence(agent: Agent, states: Iterable[InstanceState]) -> Agent:
    """Return the agent after some of its instances fell silent; itself if nothing follows.

    It stays as it is with a fresh instance. It is DEGRADED while one may still come (SILENT or
    STARTING), INACTIVE (LOST) without any.
    """
    left = set(states)
    if agent.status not in {AgentStatus.ACTIVE, AgentStatus.DEGRADED} or _fresh(left):
        return agent
    if left & {InstanceState.SILENT, InstanceState.STARTING}:
        return agent if agent.status is AgentStatus.DEGRADED else agent.moved(AgentStatus.DEGRADED)
    return agent.moved(AgentStatus.INACTIVE, LOST)


def after_departure(agent: Agent, states: Iterable[InstanceState]) -> Agent:
    """Return the agent after an instance said goodbye: INACTIVE (STOPPED) without a fresh one."""
    if agent.status not in {AgentStatus.ACTIVE, AgentStatus.DEGRADED} or _fresh(states):
        return agent
    return agent.moved(AgentStatus.INACTIVE, STOPPED)


def is_stalled(
    *, in_flight: int, token: str, since: float, now: float, settings: LivenessSettings
) -> bool:
    """Return whether work stands still: tasks in flight and the same token since `since` (s)."""
    return bool(in_flight and token) and (now - since) * 1000 >= settings.stalled_after_ms


def error_rate(
    marks: tuple[Mark, Mark], current: Mark, settings: LivenessSettings
) -> tuple[float, tuple[Mark, Mark]]:
    """Return the share of failures over the recent past, and the marks to continue with.

    `marks` are two former moments, older first. The rate is measured from the older one; when the
    newer one is half a window old, it takes its place, so the rate covers the last half to whole
    window. Counters that went back (a process that started again) begin anew without a rate.
    """
    newer = marks[1]
    if current[0] < newer[0] or current[1] < newer[1]:
        return 0.0, (current, current)
    if (current[2] - newer[2]) * 2000 >= settings.error_window_ms:
        marks = (newer, current)
    older = marks[0]
    failed = current[1] - older[1]
    outcomes = current[0] - older[0] + failed
    return (failed / outcomes if outcomes else 0.0), marks
