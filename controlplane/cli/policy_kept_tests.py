"""`fleetplane policies tests`: cases that the daemon keeps, and runs before policies change."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.call import Globals, Output, command, epilog
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.policy_set_options import DryRun, Reason
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, Colour, coloured, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import PolicyTest

app = typer.Typer(
    **PLAIN,
    help="Cases that the daemon keeps with its policies; failing ones block an activation.",
    epilog=epilog(("fleetplane policies tests set cases.yaml", "fleetplane policies tests run")),
)


def tests_in(path: Path) -> "list[PolicyTest]":
    """Read a file of cases, as for `policies test`, as tests that the daemon keeps.

    Raises:
        WrongInput: the file is wrong.
    """
    from controlplane.cli.policy_cases import AgentFacts, cases_in  # noqa: PLC0415  # SDK
    from fleetplane import PolicyAction, PolicyTest, PolicyTestAgent  # noqa: PLC0415  # same

    file = cases_in(path)
    tests: list[PolicyTest] = []
    for case in file.cases:
        if case.now is not None and case.now.tzinfo is None:
            raise WrongInput(f"{path}: {case.title}: `now` needs a time zone, such as Z")
        facts = file.agents.get(case.agent, AgentFacts())
        tests.append(
            PolicyTest(
                name=case.title,
                action=case.action,
                tool=case.tool,
                agent=PolicyTestAgent(
                    name=facts.name or case.agent,
                    version=facts.version,
                    owner=facts.owner,
                    model=facts.model,
                    status=facts.status,
                    tags=facts.tags,
                    capabilities=facts.capabilities,
                    tools=facts.tools,
                ),
                context=case.context,
                now=case.now,
                expect=PolicyAction[case.expect.action.name],
                determining=case.expect.decided_by,
            )
        )
    return tests


@command(
    app,
    "run",
    examples=("fleetplane policies tests run", "fleetplane policies tests run -o json"),
)
async def run(call: Globals) -> None:
    """Run the tests that the daemon keeps on its live policies; exit code 1 if one fails."""
    async with call.client() as client:
        response = await client.get_policy_tests()
    failed = {one.name: one.why for one in response.failures}
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
    elif not response.tests:
        note("No test is kept.")
    else:
        for test in response.tests:
            if test.name in failed:
                write(f"{coloured('FAIL', Colour.BAD)}  {printable(test.name)}")
                write(f"      {printable(failed[test.name])}")
            else:
                write(f"{coloured('pass', Colour.GOOD)}  {printable(test.name)}")
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(response.tests)} tests failed")


@command(
    app,
    "set",
    examples=(
        "fleetplane policies tests set cases.yaml",
        "fleetplane policies tests set cases.yaml --dry-run",
    ),
)
async def set_tests(
    call: Globals,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Cases, as for `policies test`.")],
    *,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Replace the tests that the daemon keeps with its live policies."""
    tests = tests_in(path)
    async with call.client() as client:
        response = await client.replace_policy_tests(tests, reason=reason, dry_run=dry_run)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    for failure in response.failures:
        note(f"fails now: {failure.name}: {failure.why}")
    if dry_run:
        note("Nothing was written.")
    else:
        write(f"{len(tests)} tests are kept, revision {response.revision}")
