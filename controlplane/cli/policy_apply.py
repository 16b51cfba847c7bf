"""`fleetplane policies apply`: make the stored policies those of the files."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.cli.policy_files import PolicyDocument
from controlplane.cli.rendering import Column, table
from controlplane.domain.policies import lint
from fleetplane import FleetClient
from fleetplane.v1 import policy_service_pb2

PAGE = 1000
"""Policies fetched in one call at most, by contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be done about one policy."""

    policy_id: str
    """Which."""
    result: str
    """`created`, `updated`, `unchanged` or `deleted`."""
    fields: tuple[str, ...] = ()
    """Fields that differ, of an update."""
    revision: int = 0
    """Revision of the policy that the plan was made from; 0 if there was none."""
    document: PolicyDocument | None = None
    """What the file says; None for a deletion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `apply` does, in the order in which it does it."""

    changes: tuple[Change, ...]
    """One per policy: those of the files in their order, then deletions."""
    warnings: tuple[str, ...]
    """Remarks of the linter about the policies of the files, among all that will be there."""


async def plan(client: FleetClient, wanted: Sequence[PolicyDocument], *, prune: bool) -> Plan:
    """Compare files with what is stored.

    Args:
        client: an open client.
        wanted: the policies of the files.
        prune: delete what no file holds.
    """
    stored = {one.policy_id: one async for one in client.list_policies(page_size=PAGE)}
    changes = [_change(document, stored.get(document.policy_id)) for document in wanted]
    ids = {document.policy_id for document in wanted}
    others = [one for one in stored.values() if one.policy_id not in ids]
    if prune:
        changes += [
            Change(policy_id=one.policy_id, result="deleted", revision=one.revision)
            for one in others
        ]
        others = []
    together = [*wanted, *map(PolicyDocument.from_message, others)]
    warnings = tuple(
        warning.message
        for warning in lint(one.to_policy() for one in together)
        if not ids.isdisjoint(warning.policy_ids)
    )
    return Plan(changes=tuple(changes), warnings=warnings)


def _change(document: PolicyDocument, stored: policy_service_pb2.Policy | None) -> Change:
    if stored is None:
        return Change(policy_id=document.policy_id, result="created", document=document)
    present = PolicyDocument.from_message(stored)
    differing = tuple(
        name
        for name in PolicyDocument.__struct_fields__
        if getattr(document, name) != getattr(present, name)
    )
    return Change(
        policy_id=document.policy_id,
        result="updated" if differing else "unchanged",
        fields=differing,
        revision=stored.revision,
        document=document,
    )


async def carry_out(client: FleetClient, changes: Sequence[Change], reason: str) -> None:
    """Do what a plan says; a policy that somebody changed meanwhile is refused.

    Raises:
        FleetError: the first refusal; what was done before stays done, and applying again goes on.
    """
    for change in changes:
        if change.document is None:
            await client.delete_policy(
                change.policy_id, expected_revision=change.revision, reason=reason
            )
        elif change.result == "created":
            await client.create_policy(
                change.policy_id, reason=reason, **change.document.to_fields()
            )
        elif change.result == "updated":
            await client.update_policy(
                change.policy_id,
                expected_revision=change.revision,
                reason=reason,
                **change.document.to_fields(),
            )


async def rehearse(client: FleetClient, changes: Sequence[Change]) -> None:
    """Let the daemon validate what a plan would write, without writing.

    Raises:
        FleetError: the first refusal.
    """
    for change in changes:
        if change.document is None or change.result == "unchanged":
            continue
        fields = change.document.to_fields()
        if change.result == "created":
            await client.create_policy(change.policy_id, dry_run=True, **fields)
        else:
            await client.update_policy(
                change.policy_id, expected_revision=change.revision, dry_run=True, **fields
            )


def plan_table(changes: Sequence[Change]) -> str:
    """Lay out what was, or would be, done."""
    columns = (Column("POLICY", flexible=True), Column("RESULT"), Column("CHANGED", flexible=True))
    rows = [(one.policy_id, one.result, ", ".join(one.fields)) for one in changes]
    return table(columns, rows)
