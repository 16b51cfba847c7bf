"""`fleetplane policies`: what agents may do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli import (
    policy_activation,
    policy_candidates,
    policy_decisions,
    policy_kept_tests,
    policy_settings,
)
from controlplane.cli.arguments import json_object, json_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, Colour, coloured, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from controlplane.cli.policy_apply import Plan
    from controlplane.cli.policy_cases import Verdict

PAGE = 1000
"""Policies fetched in one call at most, by contract."""

app = typer.Typer(**PLAIN, help="What agents may do: central rules, tested before they apply.")

PolicyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the policy.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
ExpectedRevision = Annotated[
    int,
    typer.Option(
        "--expected-revision", metavar="NUMBER", min=0, help="Refuse at another revision."
    ),
]


@command(
    app,
    "list",
    examples=("fleetplane policies list", "fleetplane policies list --enabled-only -o json"),
)
async def list_policies(
    call: Globals,
    *,
    enabled_only: Annotated[
        bool, typer.Option("--enabled-only", help="Leave out disabled policies.")
    ] = False,
) -> None:
    """List policies, highest priority first."""
    from controlplane.cli.policy_views import policies_table  # noqa: PLC0415  # imports the SDK

    async with call.client() as client:
        found = [
            one async for one in client.list_policies(enabled_only=enabled_only, page_size=PAGE)
        ]
    if call.output is not Output.TABLE:
        write_value(call.output, {"policies": [as_dict(one) for one in found]})
    elif found:
        write(policies_table(found))
    else:
        note("No policy: everything is answered with the daemon's default.")


@command(
    app,
    "get",
    examples=("fleetplane policies get cost-limit", "fleetplane policies get cost-limit -o json"),
)
async def get(call: Globals, policy_id: PolicyId) -> None:
    """Show everything about one policy."""
    from controlplane.cli.policy_views import policy_details  # noqa: PLC0415  # imports the SDK

    async with call.client() as client:
        policy = await client.get_policy(policy_id)
    if call.output is Output.TABLE:
        write(policy_details(policy))
    else:
        write_value(call.output, as_dict(policy))


@command(
    app,
    "export",
    examples=(
        "fleetplane policies export > policies.yaml",
        "fleetplane policies export cost-limit -o json",
    ),
)
async def export(
    call: Globals,
    *,
    policy_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which; by default all.")
    ] = None,
) -> None:
    """Write policies as a file that `policies apply` reads; YAML unless JSON is asked for."""
    from controlplane.cli.policy_files import PolicyDocument, as_document  # noqa: PLC0415  # SDK

    async with call.client() as client:
        if policy_ids:
            found = [await client.get_policy(one) for one in policy_ids]
        else:
            found = [one async for one in client.list_policies(page_size=PAGE)]
    output = Output.JSON if call.output is Output.JSON else Output.YAML
    write_value(output, as_document(map(PolicyDocument.from_message, found)))


@command(
    app,
    "apply",
    examples=(
        "fleetplane policies apply examples/policies/reference.yaml",
        "fleetplane policies apply policies/ --prune --dry-run",
        "fleetplane policies export | fleetplane -n staging policies apply -",
    ),
)
async def apply(
    call: Globals,
    path: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="YAML or JSON; `-` is standard input.")
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and show what would be done; write nothing.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete all policies that no file holds.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Make the stored policies those of the files: create, update, leave alone.

    Everything is validated before anything is written. Applying twice changes nothing. The linter
    warns of policies that are valid but probably not meant so.
    """
    from controlplane.cli import policy_apply  # noqa: PLC0415  # imports the SDK
    from controlplane.cli.policy_files import policies_at  # noqa: PLC0415  # same

    wanted = policies_at(path)
    async with call.client() as client:
        plan = await policy_apply.plan(client, wanted, prune=prune)
        await policy_apply.rehearse(client, plan.changes)
        if not dry_run:
            await policy_apply.carry_out(client, plan.changes, reason)
    if call.output is Output.TABLE:
        write(policy_apply.plan_table(plan.changes))
        for warning in plan.warnings:
            note(f"lint: {warning}")
        if dry_run:
            note("Nothing was written.")
    else:
        write_value(call.output, _plan(plan, dry_run=dry_run))


def _plan(plan: "Plan", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "policies": [
            {"policy_id": one.policy_id, "result": one.result, "fields": list(one.fields)}
            for one in plan.changes
        ],
        "warnings": list(plan.warnings),
    }


@command(
    app,
    "delete",
    examples=("fleetplane policies delete cost-limit --reason 'budget moved elsewhere'",),
)
async def delete(
    call: Globals,
    policy_id: PolicyId,
    *,
    expected_revision: ExpectedRevision = 0,
    reason: Reason = "",
) -> None:
    """Remove a policy; its history stays in the audit."""
    async with call.client() as client:
        revision = await client.delete_policy(
            policy_id, expected_revision=expected_revision, reason=reason
        )
    if call.output is Output.TABLE:
        write(f"deleted {policy_id} at revision {revision}")
    else:
        write_value(call.output, {"revision": str(revision)})


@command(app, "enable", examples=("fleetplane policies enable cost-limit",))
async def enable(
    call: Globals,
    policy_id: PolicyId,
    *,
    expected_revision: ExpectedRevision = 0,
    reason: Reason = "",
) -> None:
    """Put a policy into force."""
    await _switch(call, policy_id, on=True, revision=expected_revision, reason=reason)


@command(
    app,
    "disable",
    examples=("fleetplane policies disable cost-limit --reason 'blocks the nightly run'",),
)
async def disable(
    call: Globals,
    policy_id: PolicyId,
    *,
    expected_revision: ExpectedRevision = 0,
    reason: Reason = "",
) -> None:
    """Put a policy out of force; it stays and never matches."""
    await _switch(call, policy_id, on=False, revision=expected_revision, reason=reason)


async def _switch(call: Globals, policy_id: str, *, on: bool, revision: int, reason: str) -> None:
    async with call.client() as client:
        response = await client.update_policy(
            policy_id, enabled=on, expected_revision=revision, reason=reason
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    write(f"{policy_id} is {'enabled' if on else 'disabled'}, revision {response.policy.revision}")
    for warning in response.warnings:
        note(f"lint: {warning}")


@command(
    app,
    "test",
    examples=(
        "fleetplane policies test policies/cases.yaml",
        "fleetplane policies test policies/cases.yaml --live",
        "",
        "A file of cases:",
        "  policies: reference.yaml",
        "  agents:",
        "    crawler: {tags: {scope: internal}}",
        "  cases:",
        "    - name: internal agents stay inside",
        "      agent: crawler",
        "      action: external_api_call",
        "      expect: DENY",
    ),
)
async def run_cases(
    call: Globals,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Cases, as YAML or JSON.")],
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the daemon, with its policies and its registry.")
    ] = False,
) -> None:
    """Check what policies answer; exit code 1 if a case fails.

    Runs in this process on the daemon's own engine, with the policies that the file names: nothing
    needs to be running. `expect` is an action, or `{action: DENY, decided_by: [cost-limit]}`.
    """
    from controlplane.cli import policy_cases  # noqa: PLC0415  # imports the engine

    cases = policy_cases.cases_in(path)
    if live:
        async with call.client() as client:
            verdicts = await policy_cases.run_live(client, cases)
    else:
        verdicts = policy_cases.run_here(cases, policy_cases.policies_of(cases, path))
    _write_verdicts(call.output, verdicts)
    failed = sum(not one.passed for one in verdicts)
    if failed:
        raise CommandFailed(f"{failed} of {len(verdicts)} cases failed")


def _write_verdicts(output: Output, verdicts: "list[Verdict]") -> None:
    if output is not Output.TABLE:
        results = [
            {
                "case": one.case,
                "passed": one.passed,
                "expected": one.expected,
                "answered": one.answered,
            }
            for one in verdicts
        ]
        write_value(output, {"cases": results})
        return
    for one in verdicts:
        if one.passed:
            write(f"{coloured('pass', Colour.GOOD)}  {printable(one.case)}")
        else:
            write(f"{coloured('FAIL', Colour.BAD)}  {printable(one.case)}")
            write(f"      expected {one.expected}")
            write(f"      answered {printable(one.answered)}")
    if all(one.passed for one in verdicts):
        note(f"{len(verdicts)} cases passed.")


@command(
    app,
    "explain",
    examples=(
        "fleetplane policies explain --agent w1 --action database_write --context environment=eu",
        "fleetplane policies explain --agent w1 --action search --context estimated_cost=1.5",
        "fleetplane policies explain --agent w1 --action search --context-json '{\"amount\": 3}'",
    ),
)
async def explain(
    call: Globals,
    *,
    agent: Annotated[str, typer.Option("--agent", metavar="ID", help="Who wants to act.")],
    action: Annotated[str, typer.Option("--action", metavar="NAME", help="What it wants to do.")],
    tool: Annotated[str, typer.Option("--tool", metavar="NAME", help="With which tool.")] = "",
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="KEY=VALUE",
            help="A claim; values are JSON, else text; repeatable.",
        ),
    ] = None,
    context_json: Annotated[
        str, typer.Option("--context-json", metavar="OBJECT", help="All claims as JSON.")
    ] = "",
) -> None:
    """Ask the daemon for a decision, and show how every policy came to its result."""
    from controlplane.cli.policy_views import decision_details  # noqa: PLC0415  # imports the SDK
    from fleetplane import ExplainLevel  # noqa: PLC0415  # same

    if context and context_json:
        raise WrongInput("--context and --context-json exclude each other")
    claims = (
        json_object(context_json, "--context-json")
        if context_json
        else json_pairs(context or (), "--context")
    )
    async with call.client() as client:
        decision = await client.evaluate_policy(
            agent, action, tool=tool, context=claims, explain=ExplainLevel.FULL
        )
    if call.output is Output.TABLE:
        write(decision_details(decision))
    else:
        write_value(call.output, as_dict(decision))


app.add_typer(policy_decisions.app)


app.add_typer(policy_candidates.app, name="candidates")
app.add_typer(policy_kept_tests.app, name="tests")
app.add_typer(policy_activation.app)
app.add_typer(policy_settings.app)
