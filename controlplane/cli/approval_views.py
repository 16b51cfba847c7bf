"""Approvals as tables and sentences."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from controlplane.cli.contract_words import word
from controlplane.cli.moments import ago, moment, until
from controlplane.cli.rendering import Column, fields, short, table
from controlplane.cli.styles import printable
from fleetplane import ApprovalState
from fleetplane.v1 import approval_service_pb2 as pb

_COLUMNS: Final = (
    Column("APPROVAL", flexible=True),
    Column("STATE"),
    Column("AGENT", flexible=True),
    Column("ACTION", flexible=True),
    Column("WITH", flexible=True),
    Column("ASKED", right=True),
    Column("ENDS", right=True),
    Column("VOTES", right=True),
    Column("MAY DECIDE", flexible=True),
)

_GRANT_COLUMNS: Final = (
    Column("GRANT", flexible=True),
    Column("AGENT", flexible=True),
    Column("ACTION", flexible=True),
    Column("TOOL", flexible=True),
    Column("CONDITIONS", flexible=True),
    Column("USES", right=True),
    Column("ENDS", right=True),
    Column("BY", flexible=True),
    Column("REASON", flexible=True),
)


_EXACT: Final = 2**53
"""Whole numbers up to it are exact, and shown as such."""


def state_of(approval: pb.Approval) -> str:
    """Return the short name of the state."""
    return word(ApprovalState, approval.state)


def approvals_table(approvals: Iterable[pb.Approval]) -> str:
    """Lay out approvals, one per line."""
    return table(
        _COLUMNS,
        [
            (
                one.approval_id,
                state_of(one),
                f"{one.action.agent_name}@{one.action.agent_version}",
                one.action.action,
                _parameters(one.action),
                ago(one.created_at),
                _ends(one),
                _votes(one),
                ", ".join(one.may_decide_now),
            )
            for one in approvals
        ],
    )


def approval_details(approval: pb.Approval) -> str:
    """Lay out one approval: exactly what is approved, who may say so, and what was said."""
    action = approval.action
    parts = [
        fields(
            {
                "approval": approval.approval_id,
                "state": state_of(approval),
                "because": approval.state_reason,
                "agent": f"{action.agent_name}@{action.agent_version} ({action.agent_id})",
                "session": action.session_id,
                "action": action.action,
                "tool": action.tool,
                "digest": approval.digest,
                "asked by": _asked_by(approval),
                "waiting too": ", ".join(approval.waiters),
                "policies": ", ".join(approval.policies),
                "decision": approval.decision_id,
                "asked": moment(approval.created_at),
                "not before": moment(approval.not_before),
                "decide until": _until(approval.expires_at, approval.state),
                "use until": _until(approval.use_until, approval.state),
                "used by": approval.consume_id,
                "may decide": ", ".join(approval.may_decide_now),
                "revision": str(approval.revision),
            }
        ),
        "Exactly this is approved:\n" + _indented(_whole(action)),
    ]
    if approval.stages:
        parts.append("Stages:\n" + "\n".join(map(_stage, approval.stages)))
    if approval.entries:
        parts.append("Record:\n" + "\n".join(map(_entry, approval.entries)))
    return "\n\n".join(parts)


def grants_table(grants: Iterable[pb.StandingGrant]) -> str:
    """Lay out standing grants, one per line."""
    return table(
        _GRANT_COLUMNS,
        [
            (
                one.grant_id,
                one.agent_name or one.agent_id,
                one.action,
                one.tool,
                short(_plain(one.conditions)) if one.conditions.fields else "",
                f"{one.uses}/{one.max_uses}",
                "revoked" if one.revoked_at.seconds else until(one.expires_at),
                one.created_by,
                one.reason,
            )
            for one in grants
        ],
    )


def _asked_by(approval: pb.Approval) -> str:
    unknown = " (nobody was authenticated)" if approval.unauthenticated else ""
    return approval.requested_by + unknown


def _until(stamp: Any, state: int) -> str:
    text = moment(stamp)
    if text and not ApprovalState(state).ended:
        return f"{text} ({until(stamp)})"
    return text


def _ends(approval: pb.Approval) -> str:
    match ApprovalState(approval.state):
        case ApprovalState.PENDING:
            return until(approval.expires_at)
        case ApprovalState.GRANTED:
            return until(approval.use_until)
        case _:
            return ""


def _votes(approval: pb.Approval) -> str:
    """Return how many said yes of how many that have to, stage by stage."""
    return " ".join(f"{stage.grants}/{stage.quorum}" for stage in approval.stages)


def _parameters(action: pb.BoundAction) -> str:
    ceilings = {name: _number(value) for name, value in action.ceilings.items()}
    context = {**_plain(action.context), **ceilings}
    return ", ".join(f"{name}={short(value)}" for name, value in context.items())


def _whole(action: pb.BoundAction) -> str:
    document: dict[str, Any] = json.loads(action.canonical) if action.canonical else {}
    lines = json.dumps(document, indent=2, ensure_ascii=False).split("\n")
    # In full: who approves 1,234,567.89 must not be shown 1.23457e+06.
    lines += [
        f"and {name} of at most {json.dumps(_number(value))}"
        for name, value in sorted(action.ceilings.items())
    ]
    # What an agent says must not steer the terminal of who approves it.
    return "\n".join(map(printable, lines))


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _stage(stage: pb.ApprovalStageProgress) -> str:
    turn = "done" if stage.complete else "open" if stage.open else "later"
    said = f"{stage.grants} of {stage.quorum} said yes, {stage.denials} no"
    return printable(f"  {stage.name or 'approval'}: {turn}, {said}; {', '.join(stage.eligible)}")


def _entry(entry: pb.ApprovalEntry) -> str:
    kind = pb.ApprovalEntry.Kind.Name(entry.kind).removeprefix("KIND_").lower().replace("_", " ")
    to = f" to {entry.delegate}" if entry.delegate else ""
    comment = f": {entry.comment}" if entry.comment else ""
    # On one line: what somebody says must not look like the next line of the record.
    return printable(f"  {entry.sequence}. {moment(entry.at)} {entry.by} {kind}{to}{comment}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _plain(message: Any) -> Mapping[str, Any]:
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  # not for help

    return MessageToDict(message)
