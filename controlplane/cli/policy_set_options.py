"""Options that the commands about sets of policies share."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.outcomes import WrongInput

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import PolicyFields

Candidate = Annotated[str, typer.Argument(metavar="CANDIDATE", help="Id of the candidate.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision",
        metavar="NUMBER",
        min=0,
        help="Refuse if the live policies are at another revision.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show; write nothing.")]
Whole = Annotated[bool, typer.Option("--whole", help="The files hold all policies: others go.")]
Delete = Annotated[
    list[str] | None, typer.Option("--delete", metavar="ID", help="A policy to remove; repeatable.")
]
Limit = Annotated[
    int, typer.Option("--limit", metavar="NUMBER", min=1, help="Decisions to replay, the newest.")
]
MaxFlips = Annotated[
    int | None,
    typer.Option(
        "--max-flips",
        metavar="NUMBER",
        min=0,
        help="Fail if more decisions would come out otherwise.",
    ),
]

DEFAULT_LIMIT = 10_000
"""Decisions that are replayed unless more are asked for."""


def policies_of_files(path: Path | None) -> "dict[str, PolicyFields]":
    """Read policies as the SDK takes them; None: none.

    Raises:
        WrongInput: a file is wrong.
        InvalidArgument: the engine would refuse a policy.
    """
    from controlplane.cli.policy_files import policies_at  # noqa: PLC0415  # imports the SDK

    if path is None:
        return {}
    return {one.policy_id: one.to_fields() for one in policies_at(path)}


def time_of(text: str, option: str) -> datetime | None:
    """Read a time with its zone, or a time span that reaches back from now; empty: None.

    Raises:
        WrongInput: it is neither.
    """
    from datetime import UTC, timedelta  # noqa: PLC0415  # for those who ask for it

    from controlplane.cli.durations import duration  # noqa: PLC0415  # same

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=duration(text))
        except typer.BadParameter:
            raise WrongInput(
                f"{option} {text!r} is no time such as 2026-01-31T12:00:00Z, nor a span such as 2h"
            ) from None
    if moment.tzinfo is None:
        raise WrongInput(f"{option} {text!r} needs a time zone, such as Z")
    return moment
