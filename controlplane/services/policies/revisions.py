"""Revisions of a namespace's policies: what changed, by whom, and the whole set as it was then."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from controlplane.domain.errors import RevisionNotFound
from controlplane.domain.policies import OnError, PolicySet, digest_of, policy_digest, set_digest
from controlplane.domain.policy_sets.history import (
    HISTORY,
    HISTORY_KEPT,
    PolicyChange,
    PolicyDifference,
    PolicySnapshot,
    StoredDefaults,
    differences,
    rebuilt,
)
from controlplane.domain.policy_sets.tests import PolicyTests
from controlplane.domain.policy_settings import PolicyDefaults
from controlplane.services.policies.settings import settings_of, stored_defaults
from controlplane.services.ports import Collection, Ledger
from controlplane.services.read_model import NamespaceView, ReadModel

TESTS_KEY = "tests"
"""Storage key of the tests of the live set."""

ENTRIES_AT_ONCE = 100
"""Changes read from the store in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSummary:
    """One revision in a list."""

    change: PolicyChange
    digest: str
    """Of the whole set since then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionPage:
    """Some revisions, newest first."""

    revisions: tuple[RevisionSummary, ...]
    live_revision: int
    next_before: int
    """Where the next page begins; 0 on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAtRevision:
    """The whole set as it was at a revision."""

    revision: int
    snapshot: PolicySnapshot
    digest: str
    change: PolicyChange | None
    """What made it; None if the history does not reach back so far."""


class Revisions:
    """Reads the history. Whoever changes policies writes it, with `head.change_steps`."""

    def __init__(self, ledger: Ledger, read_model: ReadModel) -> None:
        self._ledger = ledger
        self._read_model = read_model

    async def page(
        self, namespace: str, *, before: int | None, limit: int, min_revision: int = 0
    ) -> RevisionPage:
        """Return revisions below `before` (None: all), newest first, with the digest of each."""
        view = await self._read_model.at_least(namespace, min_revision)
        digests = dict(view.policy_set.digests)
        live = view.policy_set.revision
        found: list[RevisionSummary] = []
        async for change in self._changes(namespace, view):
            if before is None or change.revision < before:
                if len(found) == limit:
                    last = found[-1].change.revision
                    return RevisionPage(
                        revisions=tuple(found), live_revision=live, next_before=last
                    )
                found.append(RevisionSummary(change=change, digest=set_digest(digests)))
            for policy_id, policy in change.before.items():
                if policy is None:
                    digests.pop(policy_id, None)
                else:
                    digests[policy_id] = policy_digest(policy)
            await asyncio.sleep(0)  # digests of a large set take a millisecond
        return RevisionPage(revisions=tuple(found), live_revision=live, next_before=0)

    async def at(self, namespace: str, revision: int, *, min_revision: int = 0) -> SetAtRevision:
        """Return the set as it was at a revision: 0 or the live one is that of now.

        Raises:
            RevisionNotFound: it is in the future, or the history was trimmed since.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        present, live = snapshot_of(view), view.policy_set.revision
        if revision > view.position.revision:
            raise RevisionNotFound("policies", revision)
        wanted = revision or view.position.revision
        later: list[PolicyChange] = []
        made: PolicyChange | None = None
        async for change in self._changes(namespace, view):
            if change.revision <= wanted:
                made = change
                break
            later.append(change)
        whole = 0 < len(later) < HISTORY_KEPT  # nothing was trimmed: what was before is known too
        if made is None and not whole and (later or wanted < live):
            raise RevisionNotFound("policies", revision)
        snapshot = rebuilt(present, later, wanted)
        return SetAtRevision(
            revision=_made_at(made, wanted if whole else live),
            snapshot=snapshot,
            digest=await asyncio.to_thread(digest_of, tuple(snapshot.policies.values())),
            change=made,
        )

    async def difference(
        self, namespace: str, from_revision: int, to_revision: int, *, min_revision: int = 0
    ) -> tuple[SetAtRevision, SetAtRevision, tuple[PolicyDifference, ...]]:
        """Return two revisions (0: the live one) and what differs between them.

        Raises:
            RevisionNotFound: as `at`.
        """
        before = await self.at(namespace, from_revision, min_revision=min_revision)
        after = await self.at(namespace, to_revision)
        found = await asyncio.to_thread(
            differences, before.snapshot.policies, after.snapshot.policies
        )
        return before, after, found

    async def rules_at(
        self, namespace: str, revision: int, candidate_id: str = ""
    ) -> PolicySet | None:
        """Return what decided at a revision, ready to decide again; None: nobody knows it any more.

        `candidate_id` is that of the decision, if a staged candidate made it.
        """
        view = self._read_model.view(namespace)
        try:
            found = await self.at(namespace, revision)
        except RevisionNotFound:
            return None
        snapshot = found.snapshot
        defaults = defaults_under(self._read_model.policy_defaults, snapshot.defaults)
        rules = await asyncio.to_thread(
            PolicySet.compile,
            tuple(snapshot.policies.values()),
            revision=revision,
            default_effect=defaults.effect,
            on_missing=defaults.on_missing,
            on_error=OnError.QUARANTINE,
        )
        if not candidate_id:
            return rules
        candidate = view.governance.table(Collection.POLICY_CANDIDATES).get(candidate_id)
        return None if candidate is None else await asyncio.to_thread(candidate.rules, rules)

    async def _changes(self, namespace: str, view: NamespaceView) -> AsyncIterator[PolicyChange]:
        """Yield the changes that this copy has seen, newest first."""
        before = view.position.revision + 1
        while True:
            entries = await self._ledger.read_history(
                namespace, HISTORY, before=before, limit=ENTRIES_AT_ONCE
            )
            for entry in entries:
                yield entry.value
            if len(entries) < ENTRIES_AT_ONCE:
                return
            before = entries[-1].revision


def _made_at(made: PolicyChange | None, otherwise: int) -> int:
    return otherwise if made is None else made.revision


def tests_of(view: NamespaceView) -> PolicyTests:
    """Return the tests of the live set."""
    found: PolicyTests | None = view.governance.table(Collection.POLICY_SETTINGS).get(TESTS_KEY)
    return PolicyTests() if found is None else found


def snapshot_of(view: NamespaceView) -> PolicySnapshot:
    """Return the live set as this copy has it."""
    return PolicySnapshot(
        policies=dict(view.policies),
        defaults=stored_defaults(settings_of(view)),
        tests=tests_of(view).tests,
    )


def defaults_under(daemon: PolicyDefaults, stored: StoredDefaults) -> PolicyDefaults:
    """Return what held with these stored defaults, given what the daemon was told."""
    return PolicyDefaults(
        effect=stored.effect or daemon.effect, on_missing=stored.on_missing or daemon.on_missing
    )
