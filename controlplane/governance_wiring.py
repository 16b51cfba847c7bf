"""Builds what governs agents: recorded decisions, approvals, prompts, experiments, the audit.

Constructor calls only, like `wiring`, which calls it.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.pagination import PageTokens
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper
from controlplane.services.hub import Hub
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.read_model import ReadModel
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all of it stands on."""

    settings: Settings
    ledger: Ledger
    visible: VisibleLedger
    read_model: ReadModel
    hub: Hub
    clock: Clock
    ids: IdSource
    quotas: QuotaKeeper
    page_tokens: PageTokens
    keeper: StreamKeeper
    guard: StreamGuard


class GovernanceParts:
    """One replica's share of it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        return ()

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the services about governance."""
