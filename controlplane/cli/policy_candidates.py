"""`fleetplane policies candidates`: changes that are tried before they decide."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command, epilog
from controlplane.cli.policy_set_options import (
    Candidate,
    Delete,
    DryRun,
    ExpectedRevision,
    Reason,
    Whole,
    policies_of_files,
)
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN

app = typer.Typer(
    **PLAIN,
    help="Changes to the policies that are tried before they decide.",
    epilog=epilog(
        (
            "fleetplane policies candidates create policies/ --description 'tighter budget'",
            "fleetplane policies candidates list",
        )
    ),
)


@command(
    app,
    "create",
    examples=(
        "fleetplane policies candidates create policies/ --description 'tighter budget'",
        "fleetplane policies candidates create policies/ --whole --tests cases.yaml",
        "fleetplane policies candidates create --delete cost-limit --dry-run",
    ),
)
async def create(
    call: Globals,
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE|DIR]", help="Policies to add or replace.")
    ] = None,
    whole: Whole = False,
    delete: Delete = None,
    tests: Annotated[
        Path | None,
        typer.Option(
            "--tests", metavar="FILE", help="Cases, as for `policies test`; kept with it."
        ),
    ] = None,
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="What it is for.")
    ] = "",
    expected_revision: ExpectedRevision = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Write a candidate; it decides nothing until it is activated.

    What it does not name stays as it is, unless `--whole` is given. Warns of what the linter finds,
    and of tests that would keep it from being activated.
    """
    from controlplane.cli.policy_kept_tests import tests_in  # noqa: PLC0415  # imports the SDK
    from controlplane.cli.policy_set_views import differences_table  # noqa: PLC0415  # same

    policies = policies_of_files(path)
    async with call.client() as client:
        response = await client.create_policy_candidate(
            policies,
            whole=whole,
            delete=delete or (),
            tests=None if tests is None else tests_in(tests),
            description=description,
            expected_revision=expected_revision,
            reason=reason,
            dry_run=dry_run,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    write(differences_table(response.differences))
    for warning in response.warnings:
        note(f"lint: {warning}")
    for failure in response.failures:
        note(f"test fails: {failure.name}: {failure.why}")
    if dry_run:
        note("Nothing was written.")
    else:
        note(f"candidate {response.candidate.candidate_id} on revision {response.live_revision}")


@command(
    app,
    "list",
    examples=(
        "fleetplane policies candidates list",
        "fleetplane policies candidates list -o json",
    ),
)
async def list_candidates(call: Globals) -> None:
    """List candidates, newest first."""
    from controlplane.cli.policy_set_views import candidates_table  # noqa: PLC0415  # SDK

    async with call.client() as client:
        found = await client.list_policy_candidates()
    if call.output is not Output.TABLE:
        write_value(call.output, {"candidates": [as_dict(one) for one in found]})
    elif found:
        write(candidates_table(found))
    else:
        note("No candidate.")


@command(
    app,
    "get",
    examples=(
        "fleetplane policies candidates get pcd-0192f1a2",
        "fleetplane policies candidates get pcd-0192f1a2 -o json",
    ),
)
async def get(call: Globals, candidate_id: Candidate) -> None:
    """Show what a candidate would change in the live policies of now."""
    from controlplane.cli.policy_set_views import differences_table  # noqa: PLC0415  # SDK

    async with call.client() as client:
        response = await client.get_policy_candidate(candidate_id)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    if response.differences:
        write(differences_table(response.differences))
    else:
        note("It changes nothing: the live policies say all of it already.")
    for warning in response.warnings:
        note(f"lint: {warning}")
    for failure in response.failures:
        note(f"test fails: {failure.name}: {failure.why}")


@command(
    app,
    "delete",
    examples=("fleetplane policies candidates delete pcd-0192f1a2 --reason 'not needed'",),
)
async def delete(call: Globals, candidate_id: Candidate, *, reason: Reason = "") -> None:
    """Remove a candidate that is not staged."""
    async with call.client() as client:
        revision = await client.delete_policy_candidate(candidate_id, reason=reason)
    if call.output is Output.TABLE:
        write(f"deleted {candidate_id} at revision {revision}")
    else:
        write_value(call.output, {"revision": str(revision)})
