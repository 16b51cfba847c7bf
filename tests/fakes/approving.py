"""The use cases of approvals over any ledger, as the daemon wires them."""

from dataclasses import dataclass

from controlplane.services.approvals.consumption import ApprovalConsumption
from controlplane.services.approvals.deciding import ApprovalDecisions
from controlplane.services.approvals.opening import ApprovalOpening
from controlplane.services.approvals.pages import ApprovalPages
from controlplane.services.approvals.records import ApprovalRecords
from controlplane.services.approvals.standing import StandingGrantBook, StandingGrantKeeper
from controlplane.services.approvals.sweep import ApprovalSweep
from controlplane.services.approvals.waiting import ApprovalWaits
from controlplane.services.ids import TimeSortedIds
from controlplane.services.lifecycle.activating import Activating
from controlplane.services.lifecycle.activation import ActivationCheck
from controlplane.services.lifecycle.activation_approvals import ActivationApprovals
from controlplane.services.ports import Clock, Ledger
from controlplane.services.read_model import ReadModel

RETENTION_MS = 3_600_000


@dataclass
class Approving:
    """All of them."""

    records: ApprovalRecords
    opening: ApprovalOpening
    decisions: ApprovalDecisions
    consumption: ApprovalConsumption
    pages: ApprovalPages
    waits: ApprovalWaits
    standing: StandingGrantKeeper
    sweep: ApprovalSweep


def approving(ledger: Ledger, read_model: ReadModel, clock: Clock) -> Approving:
    """Build them."""
    records, ids = ApprovalRecords(ledger, read_model), TimeSortedIds()
    return Approving(
        records=records,
        opening=ApprovalOpening(ledger, read_model, records, StandingGrantBook(), ids, clock),
        decisions=ApprovalDecisions(ledger, records, clock),
        consumption=ApprovalConsumption(ledger, read_model, records, clock),
        pages=ApprovalPages(read_model, clock),
        waits=ApprovalWaits(read_model, records, clock),
        standing=StandingGrantKeeper(ledger, read_model, ids, clock),
        sweep=ApprovalSweep(ledger, read_model, clock, retention_ms=RETENTION_MS),
    )


def activating(
    ledger: Ledger, read_model: ReadModel, clock: Clock, activation: ActivationCheck
) -> Activating:
    """Build what activates agents."""
    parts = approving(ledger, read_model, clock)
    approvals = ActivationApprovals(
        opening=parts.opening, records=parts.records, decisions=parts.decisions, clock=clock
    )
    return Activating(ledger, read_model, activation, clock, approvals)
