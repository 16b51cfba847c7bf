"""`fleetplane namespaces`: tenants, their bounds, and what is used of them."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.arguments import text_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.places import Reason
from controlplane.cli.quota_options import bounded, merged
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import QuotaFields
    from fleetplane.v1 import namespace_service_pb2 as pb

DELETE_SECONDS: Final = 30.0
"""Deadline of a removal: the daemon first waits until every replica knows of it, about 5 s."""

app = typer.Typer(
    **PLAIN,
    help="Tenants: nothing crosses their borders. A namespace that you may not see does not exist "
    "for you; `default` exists always.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name: 1-63 of [a-z0-9-].")]
OptionalName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Which one; default: that of --namespace.", show_default=False
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label of its owners; repeatable."),
]
ExpectedRevision = Annotated[
    int,
    typer.Option(
        "--expected-revision", metavar="NUMBER", min=0, help="Refuse at another revision."
    ),
]


def _write(output: Output, namespace: "pb.Namespace") -> None:
    from controlplane.cli.namespace_views import namespace_details  # noqa: PLC0415  # SDK

    if output is Output.TABLE:
        write(namespace_details(namespace))
    else:
        write_value(output, as_dict(namespace))


@command(
    app,
    "create",
    examples=(
        "fleetplane namespaces create staging",
        "fleetplane namespaces create lab --max-agents 50 --max-config-bytes 64MiB -l team=ml",
    ),
)
@bounded
async def create(
    call: Globals,
    *,
    name: Name,
    quotas: "QuotaFields",
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="What it is for.")
    ] = "",
    label: Labels = None,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Makes a repetition safe for 10 min.")
    ] = "",
) -> None:
    """Make a namespace, with bounds where they are given."""
    labels = text_pairs(label or (), "--label")
    async with call.client() as client:
        made = await client.create_namespace(
            name, description=description, labels=labels, quotas=quotas, request_id=request_id
        )
    _write(call.output, made)


@command(
    app,
    "get",
    examples=("fleetplane namespaces get staging", "fleetplane namespaces get -o yaml"),
)
async def get(call: Globals, *, name: OptionalName = "") -> None:
    """Show a namespace."""
    async with call.client() as client:
        found = await client.get_namespace(name)
    _write(call.output, found)


@command(
    app,
    "list",
    examples=("fleetplane namespaces list", "fleetplane namespaces list -o json"),
)
async def list_namespaces(call: Globals) -> None:
    """List the namespaces that you may see, by name."""
    async with call.client() as client:
        found = [one async for one in client.list_namespaces()]
    if call.output is not Output.TABLE:
        write_value(call.output, {"namespaces": [as_dict(one) for one in found]})
        return
    from controlplane.cli.namespace_views import namespaces_table  # noqa: PLC0415  # imports SDK

    if not found:
        note("You may see no namespace: ask for a role with `fleetplane auth bindings create`.")
        return
    write(namespaces_table(found))


@command(
    app,
    "update",
    examples=(
        "fleetplane namespaces update staging --max-agents 200 --max-waiting-tasks 0",
        "fleetplane namespaces update lab -l team=search --unlabel owner --description 'moved'",
        "fleetplane namespaces update lab --no-quotas --reason 'the trial is over'",
    ),
)
@bounded
async def update(
    call: Globals,
    *,
    name: OptionalName = "",
    quotas: "QuotaFields",
    description: Annotated[
        str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")
    ] = None,
    label: Labels = None,
    unlabel: Annotated[
        list[str] | None,
        typer.Option("--unlabel", metavar="KEY", help="Remove a label; repeatable."),
    ] = None,
    no_quotas: Annotated[
        bool, typer.Option("--no-quotas", help="Remove all bounds, but for those given here.")
    ] = False,
    reason: Reason = "",
    expected_revision: ExpectedRevision = 0,
) -> None:
    """Change the description, labels or bounds of a namespace; the rest stays.

    A bound of 0 is none. A bound below what is there refuses only what would add to it.
    """
    labels = text_pairs(label or (), "--label")
    if "" in labels.values():
        raise WrongInput("a label without a value is no label", hint="--unlabel removes one")
    labels.update(dict.fromkeys(unlabel or (), ""))
    if not (quotas or no_quotas or labels or description is not None):
        raise WrongInput("say what to change", hint="`fleetplane namespaces update --help`")
    async with call.client() as client:
        wanted: QuotaFields | None = quotas if no_quotas else None
        if quotas and not no_quotas:
            # The contract replaces all bounds at once: what was read must still hold then.
            present = await client.get_namespace(name)
            wanted = merged(present.quotas, quotas)
            expected_revision = expected_revision or present.revision
        changed = await client.update_namespace(
            name,
            description=description,
            labels=labels,
            quotas=wanted,
            expected_revision=expected_revision,
            reason=reason,
        )
    _write(call.output, changed)


@command(
    app,
    "delete",
    examples=("fleetplane namespaces delete lab --reason 'the trial is over'",),
)
async def delete(
    call: Globals, *, name: Name, reason: Reason = "", expected_revision: ExpectedRevision = 0
) -> None:
    """Remove an empty namespace; it takes about 5 s, until every replica knows.

    It must hold no agents that are not decommissioned, no configuration, policies, routes,
    unfinished tasks or active rollouts. Its audit stays.
    """
    async with call.client() as client:
        removed = await client.delete_namespace(
            name,
            expected_revision=expected_revision,
            reason=reason,
            timeout=call.timeout or DELETE_SECONDS,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, {"removed": removed})
    else:
        write(printable(f"namespace {name} {'is removed' if removed else 'was not there'}"))


@command(
    app,
    "usage",
    examples=("fleetplane namespaces usage staging", "fleetplane namespaces usage -o json"),
)
async def usage(call: Globals, *, name: OptionalName = "") -> None:
    """Show what is used of each bound.

    Streams, watches and calls are those of the replica that answers.
    """
    async with call.client() as client:
        used = await client.get_usage(name)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(used))
        return
    from controlplane.cli.namespace_views import usage_table  # noqa: PLC0415  # imports the SDK

    write(usage_table(used))
