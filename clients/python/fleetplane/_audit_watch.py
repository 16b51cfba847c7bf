"""Streams of the audit that survive the loss of their connection: they go on where they were."""

from collections.abc import Callable
from typing import Any, Final

from fleetplane._calls import Caller
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import audit_service_pb2 as pb
from fleetplane.v1 import watch_pb2

OpenAfter = Callable[[int | None], Any]

_SEAL: Final = b'{"seal":{"first":'
_LAST: Final = b'"last":'


class AuditWatch(Watch[pb.WatchEventsResponse, pb.AuditEvent]):
    """Entries of the audit in their order, each once, for as long as you like."""

    def __init__(
        self,
        open_at: OpenAfter,
        *,
        after: int | None,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._after = after

    @property
    def sequence(self) -> int | None:
        """Everything through here was delivered; None: not even the beginning is known yet."""
        return self._after

    def _open(self) -> Any:
        return self._open_at(self._after)

    def _receive(self, message: pb.WatchEventsResponse) -> watch_pb2.GoAway | None:
        match message.WhichOneof("message"):
            case "event" if message.event.sequence > (self._after or 0):
                self._ready.append(message.event)
            case "bookmark":
                self._after = max(self._after or 0, message.bookmark)
            case "go_away":
                return message.go_away
            case _:
                pass  # what this SDK is too old to know, or what was delivered before
        return None

    def _deliver(self, event: pb.AuditEvent) -> None:
        self._after = max(self._after or 0, event.sequence)


class AuditVerifying(Watch[pb.VerifyAuditResponse, int | pb.AuditVerification]):
    """Through where the audit is proven, again and again, and the result; then it ends.

    An interruption lets it begin anew.
    """

    def __init__(
        self,
        open_it: Callable[[], Any],
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_it = open_it

    def _open(self) -> Any:
        return self._open_it()

    def _receive(self, message: pb.VerifyAuditResponse) -> watch_pb2.GoAway | None:
        match message.WhichOneof("message"):
            case "verified_through":
                self._ready.append(message.verified_through)
            case "result":
                self._ready.append(message.result)
            case "go_away":
                return message.go_away
            case _:
                pass  # what this SDK is too old to know
        return None

    def _deliver(self, event: int | pb.AuditVerification) -> None:
        if isinstance(event, pb.AuditVerification):
            self._closed = True
            self._drop()


class AuditExporting(Watch[pb.ExportAuditResponse, bytes | pb.AuditCheckpoint]):
    """Lines of an export in pieces that end with a seal, and the checkpoint; then it ends.

    After an interruption it goes on behind the last piece: no line comes twice.
    """

    def __init__(
        self,
        open_at: OpenAfter,
        *,
        after: int,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._sealed = after
        self._piece = bytearray()

    @property
    def sequence(self) -> int:
        """Everything through here was delivered, with its seals."""
        return self._sealed

    def _open(self) -> Any:
        self._piece.clear()
        return self._open_at(self._sealed)

    def _receive(self, message: pb.ExportAuditResponse) -> watch_pb2.GoAway | None:
        match message.WhichOneof("message"):
            case "lines":
                self._take(message.lines)
            case "checkpoint":
                if self._piece:  # the line of the checkpoint, and a header if there is no seal
                    self._ready.append(bytes(self._piece))
                self._ready.append(message.checkpoint)
            case "go_away":
                return message.go_away
            case _:
                pass  # what this SDK is too old to know
        return None

    def _take(self, lines: bytes) -> None:
        self._piece += lines
        last = lines.rstrip(b"\n").rpartition(b"\n")[2]
        if not last.startswith(_SEAL):
            return
        number = last.partition(_LAST)[2].partition(b",")[0]
        self._sealed = int(number)
        self._ready.append(bytes(self._piece))
        self._piece.clear()

    def _deliver(self, event: bytes | pb.AuditCheckpoint) -> None:
        if isinstance(event, pb.AuditCheckpoint):
            self._closed = True
            self._drop()
