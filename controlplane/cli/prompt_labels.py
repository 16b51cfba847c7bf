"""`fleetplane prompts label`, `history` and `gate`: which version is in use, and what guards it."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.call import Globals, Output, command
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, printable

app = typer.Typer(**PLAIN, help="Move labels over versions, and give agents labels of their own.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the prompt.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. Required.")]
LabelArgument = Annotated[str, typer.Argument(metavar="LABEL", help="Which label.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision",
        metavar="NUMBER",
        min=0,
        help="Refuse if the label is at another revision; 0: it must not exist yet.",
    ),
]


@command(
    app,
    "move",
    examples=(
        "fleetplane prompts label move greeting 7 --reason 'it asks for the name'",
        "fleetplane prompts label move greeting 7 --label staging --reason 'try it'",
        "fleetplane prompts label move greeting 6 --reason 'back' --override 'incident 12'",
    ),
)
async def move(
    call: Globals,
    *,
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Where to.")],
    reason: Reason,
    label: Annotated[
        str, typer.Option("--label", metavar="LABEL", help="Which label.")
    ] = "production",
    override: Annotated[
        str,
        typer.Option(
            "--override",
            metavar="TEXT",
            help="Move it although its gate does not pass, and why. The audit shows it.",
        ),
    ] = "",
    expected_revision: ExpectedRevision = None,
) -> None:
    """Move a label to a version, or make it. A label under a gate moves on a pass only."""
    async with call.client() as client:
        moved = await client.move_label(
            name,
            version,
            label=label,
            reason=reason,
            override_reason=override,
            expected_revision=expected_revision,
        )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(moved))
        return
    if not moved.changed:
        write(printable(f"{label} of {name} is at version {version} already"))
        return
    before = f"version {moved.previous_version}" if moved.previous_version else "nowhere"
    remark = "; its gate was overridden" if moved.overridden else ""
    write(printable(f"{label} of {name} moved from {before} to version {version}{remark}"))


@command(
    app,
    "remove",
    examples=("fleetplane prompts label remove greeting staging --reason 'done'",),
)
async def remove(
    call: Globals,
    *,
    name: Name,
    label: LabelArgument,
    reason: Reason,
    expected_revision: ExpectedRevision = None,
) -> None:
    """Remove a label: agents stop using its version at once."""
    async with call.client() as client:
        revision = await client.remove_label(
            name, label, reason=reason, expected_revision=expected_revision
        )
    if call.output is not Output.TABLE:
        write_value(call.output, {"revision": str(revision)})
        return
    write(printable(f"{label} of {name} is gone (revision {revision})"))


@command(
    app,
    "agent",
    examples=(
        "fleetplane prompts label agent greeting writer canary --reason 'try it there'",
        "fleetplane prompts label agent greeting writer --none --reason 'done'",
    ),
)
async def agent(
    call: Globals,
    *,
    name: Name,
    agent_name: Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent.")],
    label: Annotated[str, typer.Argument(metavar="[LABEL]", help="Which label it gets.")] = "",
    reason: Reason,
    none: Annotated[bool, typer.Option("--none", help="Take its label away.")] = False,
) -> None:
    """Give an agent another label than production, or take it away."""
    if bool(label) == none:
        raise WrongInput("give either a label or --none")
    async with call.client() as client:
        if none:
            prompt = await client.unset_agent_label(name, agent_name, reason=reason)
        else:
            prompt = await client.set_agent_label(name, agent_name, label, reason=reason)
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(prompt))
        return
    write(printable(f"{agent_name} gets {label or 'production'} of {name}"))


def add_to(group: typer.Typer) -> None:
    """Add the commands that stand beside `label`."""
    command(
        group,
        "history",
        examples=(
            "fleetplane prompts history greeting",
            "fleetplane prompts history greeting --label production -o json",
        ),
    )(history)
    command(
        group,
        "gate",
        examples=(
            "fleetplane prompts gate greeting --dataset c.jsonl --scorer judge:score --reason care",
            "fleetplane prompts gate greeting --remove --reason 'nobody uses it'",
        ),
    )(gate)


async def history(
    call: Globals,
    *,
    name: Name,
    label: Annotated[
        str, typer.Option("--label", metavar="LABEL", help="Only of this label.")
    ] = "",
) -> None:
    """Show every move of the labels of a prompt, newest first."""
    async with call.client() as client:
        moves = [one async for one in client.label_history(name, label=label)]
    if call.output is not Output.TABLE:
        write_value(call.output, {"moves": [as_dict(one) for one in moves]})
        return
    from controlplane.cli.prompt_views import moves_table  # noqa: PLC0415  # imports the SDK

    if not moves:
        note("No label was ever moved.")
        return
    write(moves_table(moves))


async def gate(
    call: Globals,
    *,
    name: Name,
    reason: Reason,
    label: Annotated[
        str, typer.Option("--label", metavar="LABEL", help="Which label.")
    ] = "production",
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", metavar="FILE", help="Evaluations have to be of this file."),
    ] = None,
    scorer: Annotated[
        str, typer.Option("--scorer", metavar="NAME", help="And of this scorer.")
    ] = "",
    min_items: Annotated[
        int, typer.Option("--min-items", metavar="NUMBER", min=10, help="Fewest items.")
    ] = 50,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", metavar="SHARE", min=0, max=0.5, help="Accepted loss of score."),
    ] = 0.02,
    critical: Annotated[
        list[str] | None,
        typer.Option("--critical", metavar="ITEM", help="Must not fail; may be repeated."),
    ] = None,
    remove_gate: Annotated[bool, typer.Option("--remove", help="Take the gate away.")] = False,
) -> None:
    """Put a label under a gate: it then moves to versions that were evaluated and passed."""
    async with call.client() as client:
        if remove_gate:
            prompt = await client.remove_label_gate(name, label=label, reason=reason)
        else:
            if dataset is None or not scorer:
                raise WrongInput("a gate needs --dataset and --scorer")
            from controlplane.cli.prompt_files import read_dataset  # noqa: PLC0415  # the SDK

            prompt = await client.set_label_gate(
                name,
                label=label,
                dataset_sha256=read_dataset(dataset).sha256,
                scorer=scorer,
                min_items=min_items,
                max_drop=max_drop,
                critical_items=critical or (),
                reason=reason,
            )
    if call.output is not Output.TABLE:
        write_value(call.output, as_dict(prompt))
        return
    gated = any(one.label == label for one in prompt.gates)
    write(printable(f"{label} of {name} {'is under a gate' if gated else 'has no gate'}"))
