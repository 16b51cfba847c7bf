"""`fleetplane policies settings|lint`: what holds for all policies of a namespace."""

from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from controlplane.cli.arguments import member, read_document
from controlplane.cli.call import Globals, Output, command, epilog
from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.policy_set_options import DryRun, ExpectedRevision, Reason
from controlplane.cli.rendering import as_dict, note, write, write_value
from controlplane.cli.styles import PLAIN, Colour, coloured, printable

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import DecisionLogRule

_Member = TypeVar("_Member", bound=IntEnum)

_RULE_FIELDS = {"actions", "durability", "sample_rate"}

PAGE = 1000
"""Policies fetched in one call at most, by contract."""

app = typer.Typer(**PLAIN)
settings = typer.Typer(
    **PLAIN,
    help="What the namespace sets for its policies as a whole.",
    epilog=epilog(
        ("fleetplane policies settings get", "fleetplane policies settings set --default DENY")
    ),
)
app.add_typer(settings, name="settings")


@command(
    settings,
    "get",
    examples=("fleetplane policies settings get", "fleetplane policies settings get -o json"),
)
async def get(call: Globals) -> None:
    """Show the settings, with the daemon's where the namespace sets nothing."""
    from controlplane.cli.policy_set_views import settings_text  # noqa: PLC0415  # imports the SDK

    async with call.client() as client:
        found = await client.get_policy_settings()
    if call.output is Output.TABLE:
        write(settings_text(found))
    else:
        write_value(call.output, as_dict(found))


@command(
    settings,
    "set",
    examples=(
        "fleetplane policies settings set --default DENY --reason 'closed by default'",
        "fleetplane policies settings set --on-missing MATCH",
        "fleetplane policies settings set --mask card.number --mask user.email",
        "fleetplane policies settings set --log-rules rules.yaml",
        "",
        "Rules of the decision log:",
        "  - {actions: ['payment:*'], durability: SYNC}",
        "  - {actions: ['memory.read'], durability: SAMPLED, sample_rate: 0.01}",
    ),
)
async def set_settings(
    call: Globals,
    *,
    default: Annotated[
        str, typer.Option("--default", metavar="ALLOW|DENY|UNSPECIFIED", help="Without a match.")
    ] = "",
    on_missing: Annotated[
        str,
        typer.Option(
            "--on-missing",
            metavar="MATCH|NO_MATCH|UNSPECIFIED",
            help="What an absent attribute means to policies that do not say.",
        ),
    ] = "",
    log_rules: Annotated[
        Path | None,
        typer.Option("--log-rules", metavar="FILE", help="How decisions are recorded; YAML list."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask", metavar="PATH", help="Context never recorded; repeatable, `-`: none."
        ),
    ] = None,
    ceiling: Annotated[
        list[str] | None,
        typer.Option(
            "--ceiling", metavar="NAME", help="May be lower at use; repeatable, `-`: none."
        ),
    ] = None,
    max_pending: Annotated[
        int | None,
        typer.Option(
            "--max-pending", metavar="1-1000", min=1, max=1000, help="Approvals per agent."
        ),
    ] = None,
    expected_revision: ExpectedRevision = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Change settings; what is not given stays. UNSPECIFIED means: as the daemon was told."""
    from controlplane.cli.policy_set_views import settings_text  # noqa: PLC0415  # imports the SDK
    from fleetplane import OnMissing, PolicyAction  # noqa: PLC0415  # same

    if not any((default, on_missing, log_rules, mask, ceiling, max_pending)):
        raise WrongInput("nothing to change was given")
    async with call.client() as client:
        found = await client.update_policy_settings(
            default_action=_chosen(PolicyAction, default, "--default"),
            on_missing=_chosen(OnMissing, on_missing, "--on-missing"),
            log_rules=None if log_rules is None else _log_rules(log_rules),
            masked_paths=_named(mask),
            ceilings=_named(ceiling),
            max_pending_per_agent=max_pending,
            expected_revision=expected_revision,
            reason=reason,
            dry_run=dry_run,
        )
    if call.output is Output.TABLE:
        write(settings_text(found))
        if dry_run:
            note("Nothing was written.")
    else:
        write_value(call.output, as_dict(found))


@command(
    app,
    "lint",
    examples=("fleetplane policies lint policies/", "fleetplane policies lint --strict"),
)
async def lint_policies(
    call: Globals,
    *,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE|DIR]", help="Policies; by default the live ones."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if anything is found.")
    ] = False,
) -> None:
    """Find policies that are valid and probably not meant so; files need no daemon."""
    from controlplane.cli.policy_files import PolicyDocument, policies_at  # noqa: PLC0415  # SDK
    from controlplane.domain.policies import OnMissing, lint  # noqa: PLC0415  # the engine
    from fleetplane import OnMissing as Told  # noqa: PLC0415  # the SDK

    on_missing = OnMissing.NO_MATCH
    if path is not None:
        documents = policies_at(path)
    else:
        async with call.client() as client:
            found = [one async for one in client.list_policies(page_size=PAGE)]
            on_missing = OnMissing[Told((await client.get_policy_settings()).on_missing).name]
        documents = [PolicyDocument.from_message(one) for one in found]
    warnings = lint((one.to_policy() for one in documents), on_missing=on_missing)
    if call.output is not Output.TABLE:
        rows = [
            {"code": one.code, "policies": list(one.policy_ids), "message": one.message}
            for one in warnings
        ]
        write_value(call.output, {"checked": len(documents), "warnings": rows})
    else:
        for one in warnings:
            write(f"{coloured(one.code, Colour.WARNING)}  {printable(one.message)}")
        note(f"{len(documents)} policies, {len(warnings)} remarks.")
    if strict and warnings:
        raise CommandFailed(f"the linter has {len(warnings)} remarks")


def _chosen(kind: "type[_Member]", text: str, option: str) -> "_Member | None":
    """Read a member of an enum; empty: None, UNSPECIFIED included."""
    if not text:
        return None
    if text.strip().upper() == "UNSPECIFIED":
        return kind(0)
    return member(kind, text, option)


def _named(texts: list[str] | None) -> list[str] | None:
    return [] if texts == ["-"] else texts or None


def _log_rules(path: Path) -> "list[DecisionLogRule]":
    from fleetplane import DecisionDurability, DecisionLogRule  # noqa: PLC0415  # the SDK

    document = read_document(path)
    if not isinstance(document, list):
        raise WrongInput(f"{path}: must hold a list of rules")
    rules: list[DecisionLogRule] = []
    for position, one in enumerate(document):
        here = f"{path}: rule {position + 1}"
        if not isinstance(one, dict) or not {"actions"} <= one.keys() <= _RULE_FIELDS:
            raise WrongInput(f"{here}: must have actions, and may have durability and sample_rate")
        rate = one.get("sample_rate", 1.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise WrongInput(f"{here}: sample_rate must be a number")
        stated = str(one.get("durability", "ASYNC"))
        rules.append(
            DecisionLogRule(
                actions=one["actions"],
                durability=member(DecisionDurability, stated, f"{here}: durability"),
                sample_rate=float(rate),
            )
        )
    return rules
