"""Builds what has to do with approvals.

Constructor calls only, like `replica`, which calls it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from controlplane.api.context import May
from controlplane.api.convert.approvals import approval_to_proto
from controlplane.api.drain import Drain
from controlplane.api.pagination import PageTokens
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper
from controlplane.api.v1.approval_service import ApprovalService, ApprovalUseCases
from controlplane.domain.approvals.model import Approval
from controlplane.services.approvals.consumption import ApprovalConsumption
from controlplane.services.approvals.deciding import ApprovalDecisions
from controlplane.services.approvals.notices import ApprovalNotices, Webhook
from controlplane.services.approvals.opening import ApprovalOpening
from controlplane.services.approvals.pages import ApprovalPages
from controlplane.services.approvals.records import ApprovalRecords
from controlplane.services.approvals.standing import StandingGrantBook, StandingGrantKeeper
from controlplane.services.approvals.sweep import ApprovalSweep
from controlplane.services.approvals.waiting import ApprovalWaits
from controlplane.services.lifecycle.activating import Activating
from controlplane.services.lifecycle.activation import ActivationCheck
from controlplane.services.lifecycle.activation_approvals import ActivationApprovals
from controlplane.services.lifecycle.parked_activations import ParkedActivations
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.read_model import ReadModel
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.activation_settler import ActivationSettler
from controlplane.tasks.approval_sweeper import ApprovalSweeper
from controlplane.tasks.webhook_sender import WebhookSender
from fleetplane.v1 import approval_service_pb2_grpc


class ApprovalParts:
    """One replica's share of it."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        visible: VisibleLedger,
        read_model: ReadModel,
        clock: Clock,
        ids: IdSource,
        page_tokens: PageTokens,
        keeper: StreamKeeper,
        guard: StreamGuard,
        shutdown: Drain,
        may: May,
        activation: ActivationCheck,
        webhook: Webhook | None = None,
    ) -> None:
        records = ApprovalRecords(visible, read_model)
        self.opening = ApprovalOpening(
            visible, read_model, records, StandingGrantBook(), ids, clock
        )
        decisions = ApprovalDecisions(visible, records, clock)
        activation_approvals = ActivationApprovals(
            opening=self.opening, records=records, decisions=decisions, clock=clock
        )
        self.activating = Activating(visible, read_model, activation, clock, activation_approvals)
        parked = ParkedActivations(self.activating, read_model, clock)
        self._settler = ActivationSettler(parked, read_model, clock)
        retention_ms = round(settings.approval_retention_seconds * 1000)
        self._sweeper = ApprovalSweeper(
            ApprovalSweep(ledger, read_model, clock, retention_ms=retention_ms), read_model, clock
        )
        self._sender = None
        if webhook is not None:

            def render(namespace: str, approval: Approval) -> dict[str, Any]:
                message = approval_to_proto(approval, namespace, clock.store_ms())
                return MessageToDict(message, preserving_proto_field_name=True)

            notices = ApprovalNotices(ledger, read_model, clock, webhook, render)
            self._sender = WebhookSender(notices, read_model, clock)
        self._service = ApprovalService(
            ApprovalUseCases(
                waits=ApprovalWaits(read_model, records, clock),
                pages=ApprovalPages(read_model, clock),
                decisions=decisions,
                consumption=ApprovalConsumption(visible, read_model, records, clock),
                standing=StandingGrantKeeper(visible, read_model, ids, clock),
            ),
            read_model,
            clock,
            may,
            tokens=page_tokens,
            keeper=keeper,
            guard=guard,
            shutdown=shutdown,
        )

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        loops = (self._sweeper.run, self._settler.run)
        return loops if self._sender is None else (*loops, self._sender.run)

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the service about approvals."""
        approval_service_pb2_grpc.add_ApprovalServiceServicer_to_server(self._service, server)
