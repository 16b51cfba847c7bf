"""`fleetplane config schema`: what the extra keys of a namespace must look like."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.arguments import check_numbers, read_document
from controlplane.cli.call import Globals, Output, command, epilog
from controlplane.cli.config_scopes import scope_name
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import Column, as_dict, note, table, write, write_value
from controlplane.cli.styles import PLAIN

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from collections.abc import Iterable

    from fleetplane.v1 import config_service_pb2

app = typer.Typer(
    **PLAIN,
    help="The JSON Schema that extra keys of the configuration must fit (draft 2020-12).",
    epilog=epilog(
        (
            "fleetplane config schema set extra.schema.json --dry-run",
            "fleetplane config schema get",
        )
    ),
)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision",
        metavar="NUMBER",
        min=0,
        help="Refuse if the schema is at another; 0: never set.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Validate and show what violates it; write nothing.")
]


@command(
    app,
    "get",
    examples=(
        "fleetplane config schema get",
        "fleetplane config schema get > extra.schema.json",
        "fleetplane config schema get -o json",
    ),
)
async def get(call: Globals) -> None:
    """Write the schema, as a file that `config schema set` reads.

    With `-o`, with its revision, author and time.
    """
    async with call.client() as client:
        response = await client.get_extra_schema()
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(response))
        return
    from fleetplane import from_struct  # noqa: PLC0415  # imports the SDK

    document = from_struct(response.schema.schema)
    if not document:
        raise CommandFailed(
            "the namespace has no schema, extra keys may hold anything",
            hint="`fleetplane config schema set FILE` registers one",
        )
    write(json.dumps(document, indent=2, ensure_ascii=False))
    note(f"revision {response.schema.revision}, set by {response.schema.author}")


@command(
    app,
    "set",
    examples=(
        "fleetplane config schema set extra.schema.json --dry-run",
        "fleetplane config schema set extra.schema.yaml --reason 'typed team settings'",
        "fleetplane config schema get | fleetplane -n staging config schema set -",
    ),
)
async def set_schema(
    call: Globals,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON or YAML; `-`: standard input.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Set it although stored configuration violates it.")
    ] = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = None,
    dry_run: DryRun = False,
) -> None:
    """Register or replace the schema; what violates it is refused from then on.

    Refused, with a list, while stored layers or agents violate it.
    """
    document: Any = read_document(file)
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise WrongInput(f"{file}: must hold an object, the schema of `extra`")
    if not document:
        raise WrongInput(f"{file}: is empty", hint="`config schema remove` removes the schema")
    check_numbers(document, str(file))
    async with call.client() as client:
        response = await client.set_extra_schema(
            document,
            expected_revision=expected_revision,
            reason=reason,
            dry_run=dry_run,
            force=force,
        )
    _write_outcome(call.output, response, dry_run=dry_run)


@command(
    app,
    "remove",
    examples=(
        "fleetplane config schema remove --reason 'back to free keys'",
        "fleetplane config schema remove --expected-revision 12",
    ),
)
async def remove(
    call: Globals,
    *,
    reason: Reason = "",
    expected_revision: ExpectedRevision = None,
    dry_run: DryRun = False,
) -> None:
    """Remove the schema; extra keys may hold anything again."""
    async with call.client() as client:
        response = await client.set_extra_schema(
            {}, expected_revision=expected_revision, reason=reason, dry_run=dry_run
        )
    _write_outcome(call.output, response, dry_run=dry_run)


def _write_outcome(
    output: Output, response: "config_service_pb2.SetExtraSchemaResponse", *, dry_run: bool
) -> None:
    if output is not Output.TABLE:
        write_value(output, as_dict(response))
        return
    if response.violations:
        write(_violations_table(response.violations))
    if response.more_violations:
        note(f"Only the first {len(response.violations)} are listed.")
    if dry_run:
        note("Nothing was written.")
    elif not response.changed:
        note("Nothing changed: this was the schema already.")
    else:
        what = "registered" if response.schema.schema.fields else "removed"
        note(f"The schema is {what}, revision {response.schema.revision}.")


def _violations_table(
    violations: "Iterable[config_service_pb2.ExtraSchemaViolation]",
) -> str:
    from fleetplane import Scope  # noqa: PLC0415  # imports the SDK

    columns = (Column("WHERE"), Column("PATH", flexible=True), Column("PROBLEM", flexible=True))
    rows = [
        (
            f"agent {one.agent_id}"
            if one.agent_id
            else f"layer {scope_name(Scope.from_message(one.layer))}",
            one.path,
            one.description,
        )
        for one in violations
    ]
    return table(columns, rows)
