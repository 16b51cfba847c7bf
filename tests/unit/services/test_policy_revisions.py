"""The history of the policies: every change is a revision, and every revision can be had again."""

from dataclasses import replace

import pytest

from controlplane.domain.errors import RevisionConflict, RevisionNotFound
from controlplane.domain.policies import Effect, OnMissing, Policy, digest_of
from controlplane.domain.policy_sets.history import ChangeKind
from controlplane.domain.policy_settings import PolicySettings
from controlplane.services.policies.revisions import Revisions
from controlplane.services.policies.settings import PolicySettingsKeeper, SettingsChange
from tests.fakes.plane import CALLER, NS, Plane

DENY = Policy(policy_id="deny", action=Effect.DENY, conditions={"action": "database_write"})
ALLOW = Policy(policy_id="allow", action=Effect.ALLOW, match_all=True)


class Changed(Plane):
    """A plane whose policies change."""

    def __init__(self) -> None:
        super().__init__()
        self.revisions = Revisions(self.ledger, self.read_model)
        self.settings = PolicySettingsKeeper(self.ledger, self.read_model)

    async def create(self, policy: Policy) -> int:
        stored, _ = await self.policies.create(
            NS, policy, reason="why", request=None, dry_run=False, caller=CALLER
        )
        await self.follow()
        return stored.revision

    async def update(self, policy: Policy, *fields: str) -> int:
        stored, _ = await self.policies.update(
            NS,
            policy,
            fields,
            expected_revision=0,
            reason="other",
            request=None,
            dry_run=False,
            caller=CALLER,
        )
        await self.follow()
        return stored.revision

    async def delete(self, policy_id: str) -> int:
        revision = await self.policies.delete(
            NS, policy_id, expected_revision=0, reason="gone", request=None, caller=CALLER
        )
        await self.follow()
        return revision

    async def set(self, expected: int | None = None, **settings: object) -> PolicySettings:
        changed = await self.settings.update(
            NS,
            SettingsChange(
                settings=PolicySettings(**settings),  # type: ignore[arg-type]  # as the test says
                fields=tuple(settings),
                expected_revision=expected,
            ),
            caller=CALLER,
        )
        await self.follow()
        return changed


async def test_every_change_is_a_revision_that_says_who_why_and_what() -> None:
    plane = Changed()
    first = await plane.create(DENY)
    second = await plane.update(replace(DENY, priority=7), "priority")
    third = await plane.delete("deny")
    page = await plane.revisions.page(NS, before=None, limit=10)
    changes = [one.change for one in page.revisions]
    assert [c.revision for c in changes] == [third, second, first]
    assert [c.kind for c in changes] == [
        ChangeKind.DELETED,
        ChangeKind.UPDATED,
        ChangeKind.CREATED,
    ]
    assert {c.actor for c in changes} == {"ada"}
    assert [c.reason for c in changes] == ["gone", "other", "why"]
    assert page.live_revision == third
    assert page.revisions[0].digest == digest_of(())
    assert page.revisions[1].digest == digest_of((replace(DENY, priority=7),))
    assert page.revisions[2].digest == digest_of((DENY,))


async def test_revisions_come_in_pages() -> None:
    plane = Changed()
    revisions = [await plane.create(replace(DENY, policy_id=f"p-{n}")) for n in range(5)]
    page = await plane.revisions.page(NS, before=None, limit=2)
    seen = [one.change.revision for one in page.revisions]
    while page.next_before:
        page = await plane.revisions.page(NS, before=page.next_before, limit=2)
        seen += [one.change.revision for one in page.revisions]
    assert seen == revisions[::-1]


async def test_the_set_at_a_revision_is_the_one_of_then() -> None:
    plane = Changed()
    first = await plane.create(DENY)
    second = await plane.create(ALLOW)
    await plane.delete("deny")
    then = await plane.revisions.at(NS, first)
    assert set(then.snapshot.policies) == {"deny"}
    both = await plane.revisions.at(NS, second)
    assert set(both.snapshot.policies) == {"allow", "deny"}
    assert both.snapshot.policies["deny"].revision == first
    now = await plane.revisions.at(NS, 0)
    assert set(now.snapshot.policies) == {"allow"}


async def test_before_the_first_change_there_was_nothing_and_the_future_is_not_found() -> None:
    plane = Changed()
    await plane.register()
    await plane.create(DENY)
    assert not (await plane.revisions.at(NS, 1)).snapshot.policies
    with pytest.raises(RevisionNotFound):
        await plane.revisions.at(NS, 1_000)


async def test_the_difference_names_policies_and_their_fields() -> None:
    plane = Changed()
    first = await plane.create(DENY)
    await plane.create(ALLOW)
    last = await plane.update(replace(DENY, priority=7, enabled=False), "priority", "enabled")
    before, after, found = await plane.revisions.difference(NS, first, last)
    assert (before.revision, after.revision) == (first, last)
    assert [(one.policy_id, one.fields) for one in found] == [
        ("allow", ()),
        ("deny", ("priority", "enabled")),
    ]


async def test_every_replica_has_the_same_revision_whenever_it_began() -> None:
    plane = Changed()
    revision = await plane.create(DENY)
    await plane.register()
    assert plane.read_model.view(NS).policy_set.revision == revision
    late = plane.read_model.new_view(NS)
    async for position, batch in plane.feed.load(NS):
        late.apply(batch, position)
    assert late.position.revision > revision
    assert late.policy_set.revision == revision
    assert late.policy_set.digest == plane.read_model.view(NS).policy_set.digest


async def test_other_defaults_decide_at_once_and_are_a_revision() -> None:
    plane = Changed()
    await plane.create(DENY)
    before = plane.read_model.view(NS).policy_set
    changed = await plane.set(default_effect=Effect.DENY, on_missing=OnMissing.MATCH)
    rules = plane.read_model.view(NS).policy_set
    assert rules.default_effect is Effect.DENY
    assert rules.on_missing is OnMissing.MATCH
    assert rules.revision == changed.revision > before.revision
    then = await plane.revisions.rules_at(NS, before.revision)
    assert then is not None
    assert then.default_effect is Effect.ALLOW


async def test_settings_that_do_not_decide_leave_the_revision_alone() -> None:
    plane = Changed()
    revision = await plane.create(DENY)
    await plane.set(approval=replace(PolicySettings().approval, max_pending_per_agent=3))
    assert plane.read_model.view(NS).policy_set.revision == revision


async def test_stale_settings_are_refused() -> None:
    plane = Changed()
    first = await plane.set(default_effect=Effect.DENY)
    with pytest.raises(RevisionConflict):
        await plane.set(expected=0, default_effect=Effect.ALLOW)
    assert first.revision > 0
