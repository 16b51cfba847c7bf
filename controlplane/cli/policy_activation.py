"""`fleetplane policies simulate|activate|rollback|history|diff|stage`: policies as a set."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.call import Globals, Output, command, epilog
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.policy_set_options import (
    DEFAULT_LIMIT,
    Candidate,
    Delete,
    DryRun,
    ExpectedRevision,
    Limit,
    MaxFlips,
    Reason,
    Whole,
    policies_of_files,
    time_of,
)
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane.v1 import policy_service_pb2 as pb

REPLAY_SECONDS = 60.0
"""How long a replay may take: the daemon ends it then."""

app = typer.Typer(**PLAIN)
stage = typer.Typer(
    **PLAIN,
    help="The candidate that is being tried, and on whom.",
    epilog=epilog(("fleetplane policies stage get", "fleetplane policies stage stop")),
)
app.add_typer(stage, name="stage")


@command(
    app,
    "simulate",
    examples=(
        "fleetplane policies simulate pcd-0192f1a2 --max-flips 0",
        "fleetplane policies simulate --file policies/ --whole --since 24h",
        "fleetplane policies simulate pcd-0192f1a2 --limit 100000 -o json",
    ),
)
async def simulate(
    call: Globals,
    *,
    candidate_id: Annotated[
        str, typer.Argument(metavar="CANDIDATE", help="Id of a candidate; or give --file.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE|DIR", help="Policies to try.")
    ] = None,
    whole: Whole = False,
    delete: Delete = None,
    limit: Limit = DEFAULT_LIMIT,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="A time with its zone, or a span: 24h.")
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="A time with its zone, or a span: 2h.")
    ] = "",
    max_flips: MaxFlips = None,
) -> None:
    """Replay recorded decisions; exit code 1 if more than --max-flips would come out otherwise.

    Nothing is written. The answer says first how many of the decisions that were made could be
    replayed.
    """
    from controlplane.cli.policy_set_views import report_text  # noqa: PLC0415  # imports the SDK

    if bool(candidate_id) == bool(file is not None or delete):
        raise WrongInput("give either a candidate, or policies with --file or --delete")
    policies = policies_of_files(file)
    begin, end = time_of(since, "--since"), time_of(until, "--until")
    if call.output is Output.TABLE:
        note(f"Replaying up to {limit:,} decisions ...")
    async with call.client() as client:
        response = await client.simulate_policies(
            candidate_id,
            policies=policies,
            whole=whole,
            delete=delete or (),
            limit=limit,
            since=begin,
            until=end,
            timeout=REPLAY_SECONDS,
        )
    if call.output is Output.TABLE:
        write(report_text(response.report))
    else:
        write_value(call.output, as_dict(response))
    if max_flips is not None:
        _hold_to(max_flips, response.report)


def _hold_to(max_flips: int, report: "pb.ReplayReport") -> None:
    """End with exit code 1 where the daemon would refuse to activate."""
    if report.made and not report.replayed:
        raise CommandFailed(f"none of {report.made:,} decisions could be replayed")
    if report.caused + report.undecidable > max_flips:
        hidden = f", {report.undecidable:,} more may" if report.undecidable else ""
        raise CommandFailed(
            f"{report.caused:,} decisions would come out otherwise{hidden}; allowed: {max_flips}"
        )


@command(
    app,
    "activate",
    examples=(
        "fleetplane policies activate pcd-0192f1a2 --shadow",
        "fleetplane policies activate pcd-0192f1a2 --percent 10 --max-flips 20",
        "fleetplane policies activate pcd-0192f1a2 --reason 'reviewed by security'",
    ),
)
async def activate(
    call: Globals,
    candidate_id: Candidate,
    *,
    percent: Annotated[
        int | None,
        typer.Option("--percent", metavar="1-99", min=1, max=99, help="Only this share of agents."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="For nobody: compare what it would decide.")
    ] = False,
    max_flips: MaxFlips = None,
    limit: Limit = DEFAULT_LIMIT,
    expected_revision: ExpectedRevision = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Make a candidate decide: for all agents, unless --percent or --shadow is given.

    The tests that the daemon keeps run first. A higher --percent keeps the agents of a lower one.
    """
    from controlplane.cli.policy_set_views import (  # noqa: PLC0415  # imports the SDK
        differences_table,
        report_text,
    )
    from fleetplane import PolicyStageKind  # noqa: PLC0415  # same

    if percent is not None and shadow:
        raise WrongInput("--percent and --shadow exclude each other")
    kind = PolicyStageKind.SHADOW if shadow else PolicyStageKind.FULL
    async with call.client() as client:
        response = await client.activate_policies(
            candidate_id,
            kind if percent is None else PolicyStageKind.PERCENT,
            percent=percent or 0,
            expected_revision=expected_revision,
            max_flips=max_flips,
            limit=limit,
            reason=reason,
            dry_run=dry_run,
            timeout=REPLAY_SECONDS,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    if response.HasField("report"):
        write(report_text(response.report))
    write(differences_table(response.differences) if response.differences else "")
    _say(response, dry_run=dry_run)


def _say(response: "pb.ActivatePolicyRevisionResponse", *, dry_run: bool) -> None:
    if dry_run:
        note("Nothing was written.")
    elif response.HasField("stage"):
        whom = f"{response.stage.percent} % of the agents" if response.stage.percent else "nobody"
        note(f"{response.stage.candidate_id} decides for {whom}")
    else:
        note(f"live at revision {response.live_revision}")


@command(
    app,
    "rollback",
    examples=(
        "fleetplane policies rollback 4711 --reason 'blocks the nightly run'",
        "fleetplane policies rollback 4711 --reason 'a look' --dry-run",
    ),
)
async def rollback(
    call: Globals,
    revision: Annotated[
        int, typer.Argument(metavar="REVISION", min=1, help="Whose policies to restore.")
    ],
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; required.")],
    expected_revision: ExpectedRevision = None,
    dry_run: DryRun = False,
) -> None:
    """Restore the policies and tests of an older revision, as a new one; a stage ends with it."""
    from controlplane.cli.policy_set_views import differences_table  # noqa: PLC0415  # SDK

    async with call.client() as client:
        response = await client.rollback_policies(
            revision, reason=reason, expected_revision=expected_revision, dry_run=dry_run
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    write(differences_table(response.differences) if response.differences else "")
    if dry_run:
        note("Nothing was written.")
    else:
        note(f"live at revision {response.live_revision}")


@command(
    app,
    "history",
    examples=("fleetplane policies history", "fleetplane policies history --limit 5 -o json"),
)
async def history(
    call: Globals,
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, help="Changes to show.")
    ] = 20,
) -> None:
    """List the changes of the policies, newest first: who, when, what and why."""
    from controlplane.cli.policy_set_views import revisions_table  # noqa: PLC0415  # SDK

    async with call.client() as client:
        found: list[pb.PolicyRevision] = []
        async for one in client.list_policy_revisions(page_size=min(limit, 100)):
            found.append(one)
            if len(found) == limit:
                break
    if call.output is not Output.TABLE:
        write_value(call.output, {"revisions": [as_dict(one) for one in found]})
    elif found:
        write(revisions_table(islice(found, limit)))
    else:
        note("Nothing was ever changed.")


@command(
    app,
    "diff",
    examples=("fleetplane policies diff 4711", "fleetplane policies diff 4711 4720 -o json"),
)
async def diff(
    call: Globals,
    from_revision: Annotated[
        int, typer.Argument(metavar="FROM", min=1, help="The earlier revision.")
    ],
    *,
    to_revision: Annotated[
        int, typer.Argument(metavar="TO", min=0, help="The later one; by default the live one.")
    ] = 0,
) -> None:
    """Compare the policies of two revisions."""
    from controlplane.cli.policy_set_views import differences_table  # noqa: PLC0415  # SDK

    async with call.client() as client:
        response = await client.diff_policy_revisions(from_revision, to_revision)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
    elif response.differences:
        write(differences_table(response.differences))
    else:
        note("Both say the same.")


@command(
    stage,
    "get",
    examples=("fleetplane policies stage get", "fleetplane policies stage get -o json"),
)
async def get_stage(call: Globals) -> None:
    """Show the stage, and what a candidate in the shadow would have decided."""
    from controlplane.cli.policy_set_views import stage_text  # noqa: PLC0415  # imports the SDK

    async with call.client() as client:
        found = await client.get_policy_stage()
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(found))
    elif found.HasField("stage"):
        write(stage_text(found))
    else:
        note("No stage: the live policies decide for everybody.")


@command(
    stage,
    "stop",
    examples=("fleetplane policies stage stop --reason 'too many refusals'",),
)
async def stop_stage(call: Globals, *, reason: Reason = "") -> None:
    """End the stage: the live policies decide for everybody again."""
    async with call.client() as client:
        ended = await client.stop_policy_stage(reason=reason)
    if call.output is not Output.TABLE:
        write_value(call.output, {} if ended is None else {"stage": as_dict(ended)})
    elif ended is None:
        note("There was no stage.")
    else:
        write(f"stopped the stage of {ended.candidate_id}")
