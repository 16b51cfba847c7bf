"""A watch of approvals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleetplane._calls import Caller
from fleetplane._config import NOWHERE, Position
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import approval_service_pb2, watch_pb2


@dataclass(frozen=True, slots=True)
class ApprovalsSnapshot:
    """All approvals that match: replaces everything held before."""

    approvals: tuple[approval_service_pb2.Approval, ...]
    """Ordered by approval_id."""
    position: Position
    """What it reflects."""


@dataclass(frozen=True, slots=True)
class ApprovalsChanged:
    """What changed since the last event."""

    approvals: tuple[approval_service_pb2.Approval, ...]
    """Approvals that are new or changed, in their newest state."""
    removed_approval_ids: tuple[str, ...]
    """Approvals that are gone or no longer match."""
    position: Position
    """Everything up to here was delivered."""


ApprovalsEvent = ApprovalsSnapshot | ApprovalsChanged
OpenApprovals = Callable[[watch_pb2.WatchPosition | None], Any]


class ApprovalWatch(Watch[approval_service_pb2.WatchApprovalsResponse, ApprovalsEvent]):
    """Approvals that match a filter: a snapshot, then every change, for as long as you like.

    Another snapshot comes when the daemon cannot continue from where this watch was.
    """

    def __init__(
        self,
        open_at: OpenApprovals,
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._held = NOWHERE
        self._parts: list[approval_service_pb2.Approval] = []

    @property
    def position(self) -> Position:
        """Everything up to here was delivered."""
        return self._held

    def _open(self) -> Any:
        self._parts = []
        return self._open_at(self._held.to_message())

    def _receive(
        self, message: approval_service_pb2.WatchApprovalsResponse
    ) -> watch_pb2.GoAway | None:
        position = Position.from_message(message.position)
        match message.WhichOneof("event"):
            case "snapshot":
                self._parts.extend(message.snapshot.approvals)
                if message.snapshot.complete:
                    self._ready.append(ApprovalsSnapshot(tuple(self._parts), position))
                    self._parts = []
            case "delta":
                delta = message.delta
                gone = tuple(delta.removed_approval_ids)
                self._ready.append(ApprovalsChanged(tuple(delta.approvals), gone, position))
            case "bookmark":
                if not self._ready:
                    self._held = position
            case "go_away":
                return message.go_away
            case _:
                pass  # an event this SDK is too old to know
        return None

    def _deliver(self, event: ApprovalsEvent) -> None:
        self._held = event.position
