"""Takes beats: the hot path of the daemon. Nothing here waits or talks to the store.

A beat of a fresh instance of an active agent costs a few dictionary look-ups and slot writes. All
others are handed back as `Unusual` for `Liveness.settle`. What was accepted is remembered per
namespace until the flusher takes it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, Final, Protocol

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.configs import AckStatus, ConfigAck, absorb
from controlplane.domain.liveness import LivenessSettings, error_rate, is_stalled
from controlplane.services.live_instances import LiveInstance
from controlplane.services.ports import BeatRecord, Clock
from controlplane.services.read_model import NamespaceView

MAX_TOKEN_BYTES: Final = 64
"""UTF-8 bytes of a progress token: room for a UUID or a digest."""

_ACK_STATUSES: Final = (
    AckStatus.UNSET,
    AckStatus.APPLYING,
    AckStatus.APPLIED,
    AckStatus.FAILED,
)
"""By the number that the contract and `BeatRecord.config_status` use."""


class Outcome(StrEnum):
    """What became of a beat that was not simply accepted; names as in the contract."""

    UNKNOWN = "UNKNOWN"
    FENCED = "FENCED"
    GONE = "GONE"
    INACTIVE = "INACTIVE"
    NOT_ACTIVATED = "NOT_ACTIVATED"
    INVALID = "INVALID"
    REMOVED = "REMOVED"


@dataclass(frozen=True, slots=True)
class BeatOutcome:
    """The answer to one beat that was not simply accepted."""

    instance_id: str
    outcome: Outcome
    detail: str = ""


class Acknowledgement(Protocol):
    """`config` of a beat."""

    attempted_revision: int
    running_revision: int
    status: int
    error: str


class Beat(Protocol):
    """A beat as it came off the wire; meanings and units are those of the contract."""

    instance_id: str
    generation: int
    seq: int
    in_flight: int
    completed: int
    failed: int
    latency_ms: float
    progress_token: str
    goodbye: bool

    @property
    def config(self) -> Any:
        """An `Acknowledgement`; look only if `HasField("config")`."""

    def HasField(self, field_name: Any) -> bool:  # noqa: N802 - protobuf's name
        """Return whether an optional field was sent."""


@dataclass(frozen=True, slots=True)
class Unusual:
    """A beat that needs more than a look into memory."""

    beat: Beat
    live: LiveInstance | None
    """The instance if it is known here, whatever its generation."""
    invalid: str = ""
    """What is malformed; such a beat was not counted."""


def _nobody(_namespace: str, _agent_id: str) -> None:
    """Be told about acknowledgements, and do nothing."""


class BeatIntake:
    """Accepts beats and remembers which instances have some to flush.

    `acknowledged(namespace, agent_id)` is called when an instance of that agent said something new
    about its configuration, here or to another replica. It must not wait or raise.
    """

    def __init__(
        self,
        clock: Clock,
        settings: LivenessSettings,
        acknowledged: Callable[[str, str], None] = _nobody,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._acknowledged = acknowledged
        self._half_window = settings.error_window_ms / 2000
        self._stalled_after = settings.stalled_after_ms / 1000
        self._dirty: dict[str, set[str]] = {}
        self._loads_changed: set[str] = set()

    def accept(  # noqa: C901, PLR0912, PLR0915 - one loop: a call per beat would double its cost
        self, view: NamespaceView, beats: Iterable[Beat]
    ) -> list[Unusual]:
        """Count beats; return those that need more than that (some of them counted as well).

        Counted: every beat of the current generation whose `seq` did not go back. One with an older
        `seq` is ignored without a word. The time of the beat is the store's clock as known here.
        """
        unusual: list[Unusual] = []
        # Locals: this loop runs a hundred thousand times a second.
        instances, agents = view.instances, view.agents
        fresh, active = InstanceState.FRESH, AgentStatus.ACTIVE
        now_ms, now = self._clock.store_ms(), self._clock.monotonic()
        dirty = self._dirty.get(view.name)
        if dirty is None:
            dirty = self._dirty[view.name] = set()
        changed = False
        for beat in beats:
            instance_id = beat.instance_id
            live = instances.get(instance_id)
            if live is None:
                unusual.append(Unusual(beat, None))
                continue
            record = live.instance
            if beat.generation != record.generation or beat.goodbye:
                unusual.append(Unusual(beat, live))
                continue
            seq = beat.seq
            if seq < live.seq:
                continue
            in_flight, token = beat.in_flight, beat.progress_token
            if token != live.progress_token or (in_flight and not live.in_flight):
                if len(token.encode()) > MAX_TOKEN_BYTES:
                    why = f"progress_token is limited to {MAX_TOKEN_BYTES} bytes"
                    unusual.append(Unusual(beat, live, why))
                    continue
                live.progress_token = token
                live.progress_since = now
            completed, failed, latency_ms = beat.completed, beat.failed, beat.latency_ms
            if (
                in_flight != live.in_flight
                or completed != live.completed
                or latency_ms != live.latency_ms
                or failed != live.failed
            ):
                if not 0.0 <= latency_ms < inf:
                    unusual.append(Unusual(beat, live, "latency_ms must be a finite number >= 0"))
                    continue
                live.in_flight = in_flight
                live.completed = completed
                live.failed = failed
                live.latency_ms = latency_ms
                changed = True
            if in_flight or live.outside:
                live.outside = in_flight - live.held if in_flight > live.held else 0
            live.seq = seq
            live.last_beat_ms = now_ms
            if beat.HasField("config"):
                self._take_config(view.name, live, beat.config)
            dirty.add(instance_id)
            owner = agents.get(record.agent_id)
            if record.state is not fresh or owner is None or owner.agent.status is not active:
                unusual.append(Unusual(beat, live))
        if changed:
            self._loads_changed.add(view.name)
        return unusual

    def _take_config(self, namespace: str, live: LiveInstance, said: Acknowledgement) -> None:
        status = said.status
        if (
            said.attempted_revision == live.config_attempted
            and said.running_revision == live.config_running
            and status == live.config_status
            and said.error == live.config_error
        ):
            return
        known = status if 0 <= status < len(_ACK_STATUSES) else 0
        if take_acknowledgement(
            live, said.attempted_revision, said.running_revision, known, said.error
        ):
            self._acknowledged(namespace, live.instance.agent_id)

    def take_dirty(self) -> dict[str, set[str]]:
        """Return the instances with unflushed beats by namespace, and forget them."""
        dirty = {namespace: ids for namespace, ids in self._dirty.items() if ids}
        self._dirty = {}
        return dirty

    def put_back(self, namespace: str, instance_ids: Iterable[str]) -> None:
        """Remember instances again whose flush failed."""
        self._dirty.setdefault(namespace, set()).update(instance_ids)

    def publish_loads(self, view: NamespaceView) -> None:
        """Give the namespace a new `load_version` if a load changed since the last call."""
        if view.name in self._loads_changed or view.loads_changed:
            self._loads_changed.discard(view.name)
            view.loads_changed = False
            view.load_version += 1

    def pack(
        self, view: NamespaceView, instance_ids: Iterable[str]
    ) -> tuple[dict[int, list[str]], list[BeatRecord]]:
        """Return (deadlines by grant in ms, beats) to flush; those who left are left out.

        Judges stalls and error rates on the way: once per flush instead of once per beat.
        """
        settings, now = self._settings, self._clock.monotonic()
        instances = view.instances
        deadlines: dict[int, list[str]] = {}
        records: list[BeatRecord] = []
        for instance_id in instance_ids:
            live = instances.get(instance_id)
            if live is None or not live.last_beat_ms:
                continue
            self._judge(live, now)
            grant = grant_of(view, live, settings)
            if grant != live.deadline_group_ms:
                live.deadline_group_ms = grant
            same = deadlines.get(grant)
            if same is None:
                deadlines[grant] = [instance_id]
            else:
                same.append(instance_id)
            records.append(
                BeatRecord(
                    instance_id,
                    live.instance.generation,
                    live.in_flight,
                    live.completed,
                    live.failed,
                    live.latency_ms,
                    live.progress_token,
                    live.config_attempted,
                    live.config_running,
                    live.config_status,
                    live.config_error,
                )
            )
        return deadlines, records

    def _judge(self, live: LiveInstance, now: float) -> None:
        """Judge what changes slowly; most instances need no more than the comparisons."""
        mark = live.outcome_mark
        if live.failed != mark[1] or live.error_rate or now - mark[2] >= self._half_window:
            marks = (live.outcome_mark_before, live.outcome_mark)
            current = (live.completed, live.failed, now)
            live.error_rate, marks = error_rate(marks, current, self._settings)
            live.outcome_mark_before, live.outcome_mark = marks
        if live.stalled or (live.in_flight and now - live.progress_since >= self._stalled_after):
            live.stalled = is_stalled(
                in_flight=live.in_flight,
                token=live.progress_token,
                since=live.progress_since,
                now=now,
                settings=self._settings,
            )

    def merge(self, view: NamespaceView, records: Iterable[BeatRecord]) -> None:
        """Take over what instances said to other replicas.

        Ignored: other generations, and counters behind the known ones (the instance has moved here
        since). The time of such a beat is now: it was flushed a moment ago.
        """
        now_ms, now = self._clock.store_ms(), self._clock.monotonic()
        changed = False
        for record in records:
            live = view.instances.get(record.instance_id)
            if live is None or live.instance.generation != record.generation:
                continue
            if record.completed < live.completed or record.failed < live.failed:
                continue
            if record.progress_token != live.progress_token or (
                record.in_flight and not live.in_flight
            ):
                live.progress_token = record.progress_token
                live.progress_since = now
            changed |= (live.in_flight, live.completed, live.failed, live.latency_ms) != (
                record.in_flight,
                record.completed,
                record.failed,
                record.latency_ms,
            )
            live.in_flight = record.in_flight
            live.outside = max(record.in_flight - live.held, 0)
            live.completed = record.completed
            live.failed = record.failed
            live.latency_ms = record.latency_ms
            live.last_beat_ms = now_ms
            self._judge(live, now)
            if take_acknowledgement(
                live,
                record.config_attempted,
                record.config_running,
                record.config_status,
                record.config_error,
            ):
                self._acknowledged(view.name, live.instance.agent_id)
        if changed:
            self._loads_changed.add(view.name)

    def restore(self, view: NamespaceView, deadlines: Mapping[str, int]) -> None:
        """Learn last beats from the deadlines they left; for a replica that just started."""
        for instance_id, deadline_ms in deadlines.items():
            live = view.instances.get(instance_id)
            owner = view.agents.get(live.instance.agent_id) if live is not None else None
            if live is None or owner is None or live.last_beat_ms:
                continue
            if live.instance.state is InstanceState.STARTING:
                continue
            silence = self._settings.silence_at_deadline(live.instance.state, owner.agent.spec)
            live.last_beat_ms = max(deadline_ms - silence, 0)


def grant_of(view: NamespaceView, live: LiveInstance, settings: LivenessSettings) -> int:
    """Return the silence (ms) that an instance may keep and still be fresh."""
    owner = view.agents.get(live.instance.agent_id)
    if owner is None:
        return settings.degraded_after_ms
    return owner.agent.spec.degraded_after_ms or settings.degraded_after_ms


def take_acknowledgement(
    live: LiveInstance, attempted: int, running: int, status: int, error: str
) -> bool:
    """Note what an instance said about its configuration; return whether it was news."""
    instance = live.instance
    said = ConfigAck(
        agent_id=instance.agent_id,
        instance_id=instance.instance_id,
        attempted_revision=attempted,
        running_revision=running,
        status=_ACK_STATUSES[status],
        error=error,
    )
    known = (
        ConfigAck(
            agent_id=instance.agent_id,
            instance_id=instance.instance_id,
            attempted_revision=live.config_attempted,
            running_revision=live.config_running,
            status=_ACK_STATUSES[live.config_status],
            error=live.config_error,
        )
        if live.config_status
        else None
    )
    taken = absorb(known, said)
    if taken == known or taken.status is AckStatus.UNSET:
        return False
    live.config_attempted = taken.attempted_revision
    live.config_running = taken.running_revision
    live.config_status = _ACK_STATUSES.index(taken.status)
    live.config_error = taken.error
    return True
