"""`fleetplane prompts`: what agents say to models, version by version."""

from typing import Annotated

import typer

from controlplane.cli import prompt_evaluation, prompt_labels
from controlplane.cli.arguments import json_pairs
from controlplane.cli.call import Globals, Output, command
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(
    **PLAIN,
    help="Prompts: versions that never change, and labels that are moved over them. `production` "
    "is what agents get.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the prompt.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. Required.")]
Version = Annotated[
    int, typer.Option("--version", metavar="NUMBER", min=0, help="Exactly this version.")
]
LabelOption = Annotated[
    str, typer.Option("--label", metavar="LABEL", help="The version that this label is at.")
]


@command(
    app,
    "list",
    examples=("fleetplane prompts list", "fleetplane prompts list --prefix support. -o json"),
)
async def list_prompts(
    call: Globals,
    *,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only names that begin so.")
    ] = "",
) -> None:
    """List prompts with their labels, by name."""
    async with call.client() as client:
        prompts = [one async for one in client.list_prompts(name_prefix=prefix)]
    if call.output is not Output.TABLE:
        write_value(call.output, {"prompts": [as_dict(one) for one in prompts]})
        return
    from controlplane.cli.prompt_views import prompts_table  # noqa: PLC0415  # imports the SDK

    if not prompts:
        note("No prompt: `fleetplane prompts create` makes the first one.")
        return
    write(prompts_table(prompts))


@command(
    app,
    "versions",
    examples=("fleetplane prompts versions greeting",),
)
async def versions(
    call: Globals,
    *,
    name: Name,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="Newest versions.")
    ] = 20,
) -> None:
    """List the versions of a prompt, newest first, with the labels that are at them."""
    async with call.client() as client:
        page = await client.list_prompt_versions_page(name, page_size=limit)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(page))
        return
    from controlplane.cli.prompt_views import versions_table  # noqa: PLC0415  # imports the SDK

    write(versions_table(page.prompt, page.versions))


@command(
    app,
    "show",
    examples=(
        "fleetplane prompts show greeting",
        "fleetplane prompts show greeting --label production",
        "fleetplane prompts show greeting --version 7 -o yaml",
    ),
)
async def show(call: Globals, *, name: Name, version: Version = 0, label: LabelOption = "") -> None:
    """Show a version with its content: the newest, unless a number or label is given."""
    from fleetplane.v1 import prompt_service_pb2 as pb  # noqa: PLC0415  # a quarter of a second

    async with call.client() as client:
        connection = client.connection
        request = pb.GetPromptVersionRequest(
            namespace=client.namespace, prompt=name, version=version, label=label
        )
        found = await connection.call(connection.prompts.GetPromptVersion, request)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(found))
        return
    from controlplane.cli.prompt_views import version_details  # noqa: PLC0415  # imports the SDK

    write(version_details(found.version, found.labels))


@command(
    app,
    "create",
    examples=(
        "fleetplane prompts create greeting --file greeting.txt --reason 'first'",
        "fleetplane prompts create greeting --file greeting.yaml --reason 'ask for the name'",
        "fleetplane prompts create greeting --file - --config temperature=0.2 --reason 'calmer'",
    ),
)
async def create(
    call: Globals,
    *,
    name: Name,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Plain text, or YAML or JSON with text or messages, variables and config; "
            "- is standard input, as plain text.",
        ),
    ],
    reason: Reason,
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="NAME=VALUE", help="What goes with it; may be repeated."),
    ] = None,
    force_new: Annotated[
        bool, typer.Option("--force-new", help="Even if it equals the newest version.")
    ] = False,
    expected_latest: Annotated[
        int | None,
        typer.Option(
            "--expected-latest",
            metavar="NUMBER",
            min=0,
            help="Refuse if the newest version is another one; 0: it must not exist yet.",
        ),
    ] = None,
) -> None:
    """Write a version; the first one makes the prompt. No label moves.

    What equals the newest version makes none.
    """
    from controlplane.cli.prompt_files import read_prompt  # noqa: PLC0415  # imports the SDK

    said = read_prompt(file)
    async with call.client() as client:
        written = await client.create_prompt_version(
            name,
            said.content,
            variables=said.variables,
            config={**said.config, **json_pairs(config or (), "--config")},
            reason=reason,
            force_new=force_new,
            expected_latest=expected_latest,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(written))
        return
    number = written.version.version
    what = f"version {number} of {name}"
    write(printable(f"{what} was written" if written.created else f"{what} says that already"))


@command(app, "diff", examples=("fleetplane prompts diff greeting 6 7",))
async def diff(
    call: Globals,
    *,
    name: Name,
    from_version: Annotated[int, typer.Argument(metavar="FROM", min=1, help="Version.")],
    to_version: Annotated[int, typer.Argument(metavar="TO", min=1, help="Version.")],
) -> None:
    """Show what differs between two versions: text, variables, config."""
    async with call.client() as client:
        found = await client.diff_prompt_versions(name, from_version, to_version)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(found))
        return
    from controlplane.cli.prompt_views import diff_text  # noqa: PLC0415  # imports the SDK

    write(diff_text(found))


@command(
    app,
    "restore",
    examples=("fleetplane prompts restore greeting 7 --reason 'the newer ones ramble'",),
)
async def restore(
    call: Globals,
    *,
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="What comes back.")],
    reason: Reason,
) -> None:
    """Write an old version again as a new one: content, variables and config. No label moves."""
    async with call.client() as client:
        restored = await client.restore_prompt_version(name, version, reason=reason)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(restored))
        return
    number = restored.version.version
    what = f"version {number} restores version {version} of {name}"
    write(printable(what if restored.created else f"version {number} is the newest already"))


@command(
    app,
    "render",
    examples=(
        "fleetplane prompts render greeting name=Ada",
        "fleetplane prompts render greeting --version 7 name=Ada count=3",
    ),
)
async def render(
    call: Globals,
    *,
    name: Name,
    variables: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE...", help="JSON where it is, else text."),
    ] = None,
    version: Version = 0,
    label: LabelOption = "",
) -> None:
    """Fill in the variables of a version: that of production, unless a number or label is given."""
    values = json_pairs(variables or (), "a variable")
    async with call.client() as client:
        rendered = await client.render_prompt(name, values, version=version, label=label)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(rendered))
        return
    note(
        f"version {rendered.version}, {rendered.size_bytes:,} bytes, "
        f"about {rendered.estimated_tokens:,} tokens"
    )
    parts = [f"[{one.role}]\n{one.content}" for one in rendered.messages] or [rendered.text]
    write("\n".join(printable(line) for line in "\n".join(parts).split("\n")))


@command(
    app,
    "resolve",
    examples=(
        "fleetplane prompts resolve greeting",
        "fleetplane prompts resolve greeting --agent-id agt-1 --session s-42",
    ),
)
async def resolve(
    call: Globals,
    *,
    name: Name,
    agent_id: Annotated[str, typer.Option("--agent-id", metavar="ID", help="For this agent.")] = "",
    session: Annotated[
        str, typer.Option("--session", metavar="ID", help="In this conversation.")
    ] = "",
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep the answer for the session, as agents do.")
    ] = False,
) -> None:
    """Say which version an agent would get, and why. Nothing is kept unless --pin is given."""
    async with call.client() as client:
        found = await client.resolve_prompt(name, agent_id=agent_id, session_id=session, pin=pin)
    if call.output is not Output.TABLE:
        answer = {
            "prompt": name,
            "version": found.version.version,
            "content_sha256": found.content_sha256,
            "label": found.label,
            "experiment": found.experiment,
            "variant": found.variant,
            "reason": found.reason.name,
            "pinned": found.pinned,
        }
        write_value(call.output, answer)
        return
    how = found.label or f"{found.experiment}/{found.variant}"
    write(printable(f"version {found.version.version} ({found.reason.name}, {how})"))


app.add_typer(prompt_labels.app, name="label")
prompt_labels.add_to(app)
prompt_evaluation.add_to(app)
