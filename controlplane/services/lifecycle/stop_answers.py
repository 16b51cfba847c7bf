"""Who is told to stop by an emergency stop, and what has come of it, from memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.agents import Instance, InstanceState
from controlplane.domain.drains import (
    EmergencyStop,
    StopAcknowledgement,
    StopTarget,
    acknowledgement_key,
)
from controlplane.services.ports import Collection, Put, Step
from controlplane.services.read_model import NamespaceView


class StopOutcome(StrEnum):
    """What came of telling one instance to stop; names as in the contract."""

    WAITING = "WAITING"
    """Nothing heard yet."""
    ACKNOWLEDGED = "ACKNOWLEDGED"
    """It said that it has stopped working."""
    LEFT = "LEFT"
    """It said goodbye, or a newer process has taken its place."""
    SILENT = "SILENT"
    """It was silent before, or has fallen silent since: nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAnswer:
    """What came of telling one instance to stop."""

    instance_id: str
    agent_id: str
    outcome: StopOutcome
    after_ms: int | None
    """From the stop to the acknowledgement, on the store's clock; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """An emergency stop as it stands."""

    stop: EmergencyStop
    answers: tuple[StopAnswer, ...]
    """Those that have not answered first, then the slowest answers."""
    acknowledged: int
    """How many have acknowledged or left."""
    waiting: int
    """How many have not, the silent ones included."""
    last_after_ms: int | None
    """From the stop to the last acknowledgement so far."""

    @property
    def is_settled(self) -> bool:
        """Whether nobody is left that could still answer."""
        return not any(one.outcome is StopOutcome.WAITING for one in self.answers)


def concerns(stop: EmergencyStop, instance: Instance) -> bool:
    """Return whether a stop is for this process: of an agent that matched, and older than it."""
    return instance.generation < stop.generation and instance.agent_id in stop.agent_ids


def open_stops(view: NamespaceView, instance: Instance) -> Iterator[EmergencyStop]:
    """Yield the stops that an instance has not answered, oldest first."""
    for stop_id, stop in view.work.stops.items():
        if concerns(stop, instance) and not has_answered(view, stop_id, instance.instance_id):
            yield stop


def has_answered(view: NamespaceView, stop_id: str, instance_id: str) -> bool:
    """Return whether an instance has acknowledged a stop, or left since."""
    return instance_id in view.work.stop_acknowledgements.get(stop_id, ())


def left_steps(view: NamespaceView, instance: Instance, now_ms: int) -> tuple[Step, ...]:
    """Return the steps that answer every open stop of an instance that says goodbye."""
    return tuple(
        acknowledgement_step(stop.stop_id, instance.instance_id, now_ms, left=True)
        for stop in open_stops(view, instance)
    )


def acknowledgement_step(stop_id: str, instance_id: str, now_ms: int, *, left: bool) -> Put:
    """Return the step that notes the answer of one instance."""
    answer = StopAcknowledgement(
        stop_id=stop_id, instance_id=instance_id, acknowledged_at_ms=now_ms, left=left
    )
    key = acknowledgement_key(stop_id, instance_id)
    return Put(Collection.STOP_ACKNOWLEDGEMENTS, key, answer)


def report(view: NamespaceView, stop: EmergencyStop) -> StopReport:
    """Return a stop as it stands here."""
    answers = [_answer(view, stop, target) for target in _targets(view, stop)]
    answers.sort(key=lambda one: (one.after_ms is not None, -(one.after_ms or 0)))
    times = [one.after_ms for one in answers if one.after_ms is not None]
    done = sum(one.outcome in {StopOutcome.ACKNOWLEDGED, StopOutcome.LEFT} for one in answers)
    return StopReport(
        stop=stop,
        answers=tuple(answers),
        acknowledged=done,
        waiting=len(answers) - done,
        last_after_ms=max(times, default=None),
    )


def _targets(view: NamespaceView, stop: EmergencyStop) -> Iterator[StopTarget]:
    """Yield who was known when it began, and who was registered then without being known yet."""
    yield from stop.targets
    known = {target.instance_id for target in stop.targets}
    for agent_id in stop.agent_ids:
        entry = view.agents.get(agent_id)
        for live in entry.instances.values() if entry is not None else ():
            one = live.instance
            if one.instance_id not in known and concerns(stop, one):
                yield StopTarget(
                    instance_id=one.instance_id, agent_id=agent_id, generation=one.generation
                )


def _answer(view: NamespaceView, stop: EmergencyStop, target: StopTarget) -> StopAnswer:
    said = view.work.stop_acknowledgements.get(stop.stop_id, {}).get(target.instance_id)
    after_ms = None
    if said is not None:
        outcome = StopOutcome.LEFT if said.left else StopOutcome.ACKNOWLEDGED
        after_ms = max(said.acknowledged_at_ms - stop.started_at_ms, 0)
    else:
        outcome = _unanswered(view, stop, target)
    return StopAnswer(
        instance_id=target.instance_id,
        agent_id=target.agent_id,
        outcome=outcome,
        after_ms=after_ms,
    )


def _unanswered(view: NamespaceView, stop: EmergencyStop, target: StopTarget) -> StopOutcome:
    live = view.instances.get(target.instance_id)
    if live is None or live.instance.state in {InstanceState.SILENT, InstanceState.LOST}:
        # Whoever is gone without an answer was forgotten in silence: a goodbye leaves one.
        return StopOutcome.SILENT
    if not concerns(stop, live.instance):
        return StopOutcome.LEFT
    return StopOutcome.WAITING
