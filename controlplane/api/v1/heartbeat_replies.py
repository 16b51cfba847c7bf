"""The answers of one heartbeat stream: bytes made ready once per commit, and the pace they ask."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from controlplane.api.wire import varint
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.beats import BeatOutcome, Outcome, grant_of
from controlplane.services.lifecycle.commands import CommandKind, Owed
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import watch_pb2

OBSERVE_AGAIN_SECONDS: Final = 60.0
"""How often the shortest grant on a stream is found anew: overrides change rarely."""

URGENT_INTERVAL_MS: Final = 1_000
"""How often a stream is asked to beat while one of its instances drains or must stop: drains need
two beats a second apart, and somebody waits for both."""

_OUTCOMES: Final[Mapping[Outcome, "pb.BeatResult.Outcome.ValueType"]] = MappingProxyType(
    {outcome: pb.BeatResult.Outcome.Value(f"OUTCOME_{outcome}") for outcome in Outcome}
)

_KINDS: Final[Mapping[CommandKind, "pb.Command.Kind.ValueType"]] = MappingProxyType(
    {kind: pb.Command.Kind.Value(f"KIND_{kind}") for kind in CommandKind}
)

_BATCH_TAG: Final = b"\x08"
"""Field 1, varint: `HeartbeatResponse.batch`."""


class HeartbeatReplies:
    """The answers of one stream, and the pace they ask for."""

    __slots__ = (
        "_first",
        "_grant",
        "_loop",
        "_observe_again_at",
        "_observe_until",
        "_observed",
        "_position",
        "_ready",
        "_settings",
        "_was_urgent",
        "joined",
        "urgent",
    )

    def __init__(self, settings: LivenessSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._grant = settings.degraded_after_ms
        self._observed: int | None = None
        self._first = ""
        self._observe_until = 0.0
        self._observe_again_at = 0.0
        self._position: Position | None = None
        self._ready = b""
        """The answer to ordinary beats, without its batch."""
        self._was_urgent = False
        self.urgent = False
        """Somebody waits for what instances of this stream say next."""
        self.joined: set[str] = set()
        """Instances seen while the grants were observed, or that came to life, until the stream
        takes note of them."""

    def to(
        self,
        request: pb.HeartbeatRequest,
        view: NamespaceView,
        outcomes: Iterable[BeatOutcome],
        owed: Sequence[Owed] = (),
    ) -> bytes:
        """Return the answer to a message, as bytes."""
        now = self._loop.time()
        if now < self._observe_until or now >= self._observe_again_at:
            self._observe(request, view, now)
        if view.position is not self._position or self.urgent is not self._was_urgent:
            self._prepare(view)
        answer = _BATCH_TAG + varint(request.batch) + self._ready
        if outcomes:
            # Concatenated messages are one message.
            answer += _results(outcomes)
        if owed:
            answer += _commands(owed)
        return answer

    def pushed(self, view: NamespaceView, owed: Sequence[Owed]) -> bytes:
        """Return a message that answers nothing, as bytes."""
        self._prepare(view)
        return self._ready + _commands(owed)

    def _prepare(self, view: NamespaceView) -> None:
        self._ready = self._prepared(view)
        self._position = view.position
        self._was_urgent = self.urgent

    def _observe(self, request: pb.HeartbeatRequest, view: NamespaceView, now: float) -> None:
        """Find the shortest grant on this stream, over one round of its messages."""
        beats = request.beats
        if now >= self._observe_again_at:
            self._observed = None
            self._first = beats[0].instance_id if beats else ""
            self._observe_until = now + 2 * self._settings.interval_ms / 1000
            self._observe_again_at = self._observe_until + OBSERVE_AGAIN_SECONDS
        elif beats and beats[0].instance_id == self._first:
            self._observe_until = now  # The round begins anew: everybody was seen.
            return
        for beat in beats:
            live = view.instances.get(beat.instance_id)
            if live is not None:
                self.joined.add(beat.instance_id)
                grant = grant_of(view, live, self._settings)
                self._observed = grant if self._observed is None else min(self._observed, grant)
        shortest = self._observed or self._settings.degraded_after_ms
        if shortest != self._grant:
            self._grant = shortest
            self._position = None

    def _prepared(self, view: NamespaceView) -> bytes:
        interval_ms = self._settings.interval_for(self._grant, len(view.instances))
        if self.urgent:
            interval_ms = min(interval_ms, URGENT_INTERVAL_MS)
        position = view.position
        reply = pb.HeartbeatResponse(
            head=watch_pb2.WatchPosition(epoch=position.epoch, revision=position.revision)
        )
        reply.next_interval.FromMilliseconds(interval_ms)
        reply.ttl.FromMilliseconds(self._grant)
        return reply.SerializeToString()


def _results(outcomes: Iterable[BeatOutcome]) -> bytes:
    return pb.HeartbeatResponse(
        results=[
            pb.BeatResult(
                instance_id=outcome.instance_id,
                outcome=_OUTCOMES[outcome.outcome],
                detail=outcome.detail,
            )
            for outcome in outcomes
        ]
    ).SerializeToString()


def _commands(owed: Iterable[Owed]) -> bytes:
    return pb.HeartbeatResponse(commands=[_command(one) for one in owed]).SerializeToString()


def _command(owed: Owed) -> pb.Command:
    command = pb.Command(
        instance_id=owed.instance_id,
        kind=_KINDS[owed.kind],
        reason=owed.reason,
        stop_id=owed.stop_id,
    )
    if owed.deadline_ms:
        command.deadline.FromMilliseconds(owed.deadline_ms)
    return command
