"""`fleetplane approvals approve|deny|advise|delegate`: what people say."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.durations import duration
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import ApprovalVote, FleetClient
    from fleetplane.v1 import approval_service_pb2 as pb

MAX_VOTES: Final = 100
"""Votes of one call, by contract."""

app = typer.Typer(**PLAIN)

ApprovalIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Of the approvals.")]
Comment = Annotated[
    str, typer.Option("--comment", metavar="TEXT", help="Why; the requester sees it.")
]
Together = Annotated[
    bool, typer.Option("--all-or-nothing", help="If one vote is refused, none counts.")
]


@command(
    app,
    "approve",
    examples=(
        "fleetplane approvals approve apr-0192f3c2",
        "fleetplane approvals approve apr-0192f3c2 --comment 'checked the table' --yes",
        "fleetplane approvals approve apr-0192f3c2 apr-0192f3d7 --all-or-nothing --yes",
    ),
)
async def approve(
    call: Globals,
    *,
    approval_ids: ApprovalIds,
    comment: Comment = "",
    together: Together = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Say yes to exactly what is shown; at a terminal you are asked first.

    What changes after it was shown is not approved by it.
    """
    from fleetplane import ApprovalVote  # noqa: PLC0415  # not for help

    if not yes and (len(approval_ids) > 1 or not sys.stdin.isatty()):
        raise WrongInput("several at once, or without a terminal to ask at: say --yes")
    async with call.client() as client:
        if not yes:
            await _approve_shown(call, client, approval_ids[0], comment)
        else:
            await _vote(call, client, approval_ids, ApprovalVote.GRANT, comment, together=together)


async def _approve_shown(
    call: Globals, client: "FleetClient", approval_id: str, comment: str
) -> None:
    from controlplane.cli.approval_views import approval_details  # noqa: PLC0415  # the SDK
    from fleetplane import ApprovalVote  # noqa: PLC0415  # same

    shown = await client.get_approval(approval_id)
    sys.stderr.write(approval_details(shown) + "\n\n")
    if not typer.confirm("Approve exactly this?", err=True):
        raise CommandFailed("nothing was approved")
    decided = await client.decide_approval(
        approval_id, ApprovalVote.GRANT, comment=comment, expected_revision=shown.revision
    )
    _write(call, [decided])


@command(
    app,
    "deny",
    examples=(
        "fleetplane approvals deny apr-0192f3c2 --comment 'not in business hours'",
        "fleetplane approvals deny apr-0192f3c2 apr-0192f3d7",
    ),
)
async def deny(
    call: Globals,
    *,
    approval_ids: ApprovalIds,
    comment: Comment = "",
    together: Together = False,
) -> None:
    """Say no."""
    from fleetplane import ApprovalVote  # noqa: PLC0415  # not for help

    async with call.client() as client:
        await _vote(call, client, approval_ids, ApprovalVote.DENY, comment, together=together)


@command(
    app,
    "advise",
    examples=("fleetplane approvals advise apr-0192f3c2 --comment 'the table has no backup'",),
)
async def advise(call: Globals, *, approval_ids: ApprovalIds, comment: Comment = "") -> None:
    """Leave an opinion for those who decide; it is recorded and never counted."""
    from fleetplane import ApprovalVote  # noqa: PLC0415  # not for help

    if not comment:
        raise WrongInput("an opinion needs --comment")
    async with call.client() as client:
        await _vote(call, client, approval_ids, ApprovalVote.ADVISE, comment, together=False)


@command(
    app,
    "delegate",
    examples=(
        "fleetplane approvals delegate apr-0192f3c2 --to user:ann@example.com",
        "fleetplane approvals delegate apr-0192f3c2 --to user:ann@example.com --for 2h",
    ),
)
async def delegate(
    call: Globals,
    *,
    approval_id: Annotated[str, typer.Argument(metavar="ID", help="Of the approval.")],
    to: Annotated[str, typer.Option("--to", metavar="SUBJECT", help="Who decides for me.")],
    within: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long; default: while it is open.")
    ] = "",
    comment: Comment = "",
) -> None:
    """Hand my vote to somebody else, once; I have none after that."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # not for help

    until = datetime.now(UTC) + timedelta(seconds=duration(within)) if within else None
    async with call.client() as client:
        approval = await client.delegate_approval(approval_id, to, until=until, comment=comment)
    _write(call, [approval])


async def _vote(
    call: Globals,
    client: "FleetClient",
    approval_ids: list[str],
    vote: "ApprovalVote",
    comment: str,
    *,
    together: bool,
) -> None:
    """Vote on all of them; every refusal is shown, and one makes the command fail."""
    if len(approval_ids) > MAX_VOTES:
        raise WrongInput(f"at most {MAX_VOTES} approvals at once")
    if len(approval_ids) == 1:
        _write(call, [await client.decide_approval(approval_ids[0], vote, comment=comment)])
        return
    outcomes = await client.decide_approvals(
        approval_ids, vote, comment=comment, all_or_nothing=together
    )
    _write(call, [one.approval for one in outcomes if one.approval is not None])
    refusals = [
        f"{approval_id}: {one.error.message}"
        for approval_id, one in zip(approval_ids, outcomes, strict=True)
        if one.error is not None
    ]
    for refusal in refusals:
        note(refusal)
    if refusals:
        raise CommandFailed(f"{len(refusals)} of {len(outcomes)} votes were refused")


def _write(call: Globals, approvals: "list[pb.Approval]") -> None:
    if call.output is not Output.TABLE:
        write_value(call.output, {"approvals": [as_dict(one) for one in approvals]})
        return
    from controlplane.cli.approval_views import approvals_table  # noqa: PLC0415  # the SDK

    if approvals:
        write(approvals_table(approvals))
