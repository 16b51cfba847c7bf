"""Callers, roles, bindings, bans and verdicts as tables and sentences."""

from collections.abc import Iterable
from typing import Final

from controlplane.cli.contract_words import word
from controlplane.cli.moments import ago, moment, until
from controlplane.cli.places import place
from controlplane.cli.rendering import Column, fields, table
from controlplane.cli.styles import printable
from fleetplane import CallerKind
from fleetplane.v1 import access_service_pb2, identity_service_pb2

_KINDS: Final = {
    CallerKind.LOCAL_ADMIN: "anybody on this machine (the daemon authenticates nobody)",
    CallerKind.AGENT: "an agent, by its certificate",
    CallerKind.USER: "a user, by an OIDC token",
    CallerKind.API_TOKEN: "a program, by an API token",
    CallerKind.WORKLOAD: "a workload, by its certificate",
}

_HELD_COLUMNS: Final = (
    Column("ROLE"),
    Column("WHERE", flexible=True),
    Column("BY", flexible=True),
)
_ROLE_COLUMNS: Final = (
    Column("ROLE"),
    Column("MAY", flexible=True),
    Column("WHAT FOR", flexible=True),
)
_BINDING_COLUMNS: Final = (
    Column("BINDING", flexible=True),
    Column("SUBJECT", flexible=True),
    Column("ROLE"),
    Column("WHERE", flexible=True),
    Column("EXPIRES", right=True),
    Column("AGE", right=True),
    Column("MADE BY", flexible=True),
    Column("WHY", flexible=True),
)
_BAN_COLUMNS: Final = (
    Column("AGENT", flexible=True),
    Column("AGO", right=True),
    Column("BANNED BY", flexible=True),
    Column("REASON", flexible=True),
)


def caller_details(who: identity_service_pb2.WhoAmIResponse) -> str:
    """Lay out who the caller is and which roles it has."""
    kind = CallerKind(who.kind)
    shown = fields(
        {
            "name": who.name,
            "kind": _KINDS.get(kind, word(CallerKind, who.kind)),
            "agent": f"{who.agent_name} {place(who.namespace)}" if who.agent_name else "",
            "subjects": ", ".join(who.subjects),
            "ends": f"{moment(who.expires_at)} ({until(who.expires_at)})"
            if who.HasField("expires_at")
            else "",
        }
    )
    if not who.roles:
        return shown
    rows = [
        (one.role, place(one.namespace), one.binding_id or "the identity itself")
        for one in who.roles
    ]
    return f"{shown}\n\n" + table(_HELD_COLUMNS, rows)


def roles_table(roles: Iterable[access_service_pb2.Role]) -> str:
    """Lay out roles, one per line."""
    return table(
        _ROLE_COLUMNS, [(one.name, ", ".join(one.permissions), one.description) for one in roles]
    )


def bindings_table(bindings: Iterable[access_service_pb2.RoleBinding]) -> str:
    """Lay out bindings, one per line."""
    return table(
        _BINDING_COLUMNS,
        [
            (
                one.binding_id,
                one.subject,
                one.role,
                place(one.namespace).removeprefix("in namespace "),
                until(one.expires_at) or "never",
                ago(one.created_at),
                one.created_by,
                one.description,
            )
            for one in bindings
        ],
    )


def bans_table(bans: Iterable[identity_service_pb2.Ban]) -> str:
    """Lay out bans, one per line."""
    return table(
        _BAN_COLUMNS,
        [(one.agent_name, ago(one.banned_at), one.banned_by, one.reason) for one in bans],
    )


def binding_words(binding: access_service_pb2.RoleBinding) -> str:
    """Return what a binding says, in a sentence."""
    end = f", ends {until(binding.expires_at)}" if binding.expires_at.seconds else ""
    return printable(
        f"{binding.binding_id}: {binding.subject} is {binding.role} {place(binding.namespace)}{end}"
    )


def verdict(answer: access_service_pb2.CheckAccessResponse) -> str:
    """Lay out whether something is permitted, why, and what would permit it."""
    lines = ["yes" if answer.allowed else "no"]
    if answer.explanation:
        lines[0] += f": {answer.explanation}"
    lines += [f"  {binding_words(one)}" for one in answer.bindings]
    if not answer.allowed and answer.sufficient_roles:
        lines.append(f"  roles that would do: {', '.join(answer.sufficient_roles)}")
    return "\n".join(printable(line) for line in lines)
