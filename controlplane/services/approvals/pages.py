"""Lists of approvals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.domain.approvals.changes import seen
from controlplane.domain.approvals.model import Approval, ApprovalState, Voter
from controlplane.domain.approvals.votes import may_decide
from controlplane.services.approvals.parts import fitting
from controlplane.services.ports import Clock, Collection, Position
from controlplane.services.read_model import ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFilter:
    """Which approvals; what is empty does not choose.

    `mine`: only those that the voter may decide now.
    """

    states: frozenset[ApprovalState] = frozenset()
    agent_id: str = ""
    agent_name: str = ""
    mine: bool = False

    def choosing(self, voter: Voter, now_ms: Callable[[], int]) -> Callable[[Approval], bool]:
        """Return what says whether somebody wants to see an approval."""

        def wanted(approval: Approval) -> bool:
            action = approval.action
            return (
                (not self.states or approval.state in self.states)
                and (not self.agent_id or action.agent_id == self.agent_id)
                and (not self.agent_name or action.agent_name == self.agent_name)
                and (not self.mine or may_decide(approval, voter, now_ms()))
            )

        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalPage:
    """Some of the approvals of a namespace, the newest first."""

    approvals: tuple[Approval, ...]
    total: int
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    position: Position


class ApprovalPages:
    """Lists from memory."""

    def __init__(self, read_model: ReadModel, clock: Clock) -> None:
        self._read_model = read_model
        self._clock = clock

    async def page(
        self,
        namespace: str,
        chosen: ApprovalFilter,
        voter: Voter,
        *,
        after: str,
        limit: int,
        min_revision: int,
    ) -> ApprovalPage:
        """Return approvals after a cursor (the id of the last one before), the newest first.

        Fewer than `limit` if they are too large for one message.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        now_ms = self._clock.store_ms()
        wanted = chosen.choosing(voter, lambda: now_ms)
        table: Mapping[str, Approval] = view.governance.table(Collection.APPROVALS)
        shown = (seen(approval, now_ms) for approval in table.values())
        found = [approval for approval in shown if wanted(approval)]
        found.sort(key=lambda one: one.approval_id, reverse=True)
        rest = [one for one in found if not after or one.approval_id < after]
        approvals = tuple(rest[: fitting(rest, limit)])
        return ApprovalPage(
            approvals=approvals,
            total=len(found),
            next_cursor=approvals[-1].approval_id if len(rest) > len(approvals) else "",
            position=view.position,
        )
