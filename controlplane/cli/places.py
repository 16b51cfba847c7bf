"""Where rights and tokens hold, and which roles there are: options that several commands share."""

from typing import Annotated, Final

import typer

EVERYWHERE: Final = "*"
"""In place of a namespace: all of them, those to come included."""

Everywhere = Annotated[
    bool,
    typer.Option("--everywhere", help="In all namespaces, those to come included."),
]
"""Instead of `--namespace`; `-n '*'` says the same."""


def _roles(incomplete: str) -> list[str]:
    """Return the roles that begin so, for the completion of the shell."""
    from controlplane.domain.access.permissions import RoleName  # noqa: PLC0415  # not for help

    return [role.value for role in RoleName if role.value.startswith(incomplete)]


Role = Annotated[
    str,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="viewer, agent, orchestrator, operator, approver, auditor or admin.",
        autocompletion=_roles,
        show_default=False,
    ),
]
"""A role by its name; `fleetplane auth roles` explains them."""

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
"""Why something is taken away."""


def chosen(*, everywhere: bool) -> str:
    """Return the namespace that a call names; empty: that of the client."""
    return EVERYWHERE if everywhere else ""


def place(namespace: str) -> str:
    """Return where something holds, in a sentence."""
    return "everywhere" if namespace == EVERYWHERE else f"in namespace {namespace}"
