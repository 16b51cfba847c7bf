"""Sets of policies as they leave the daemon: known by a digest, told as changes of one another.

Whoever decides elsewhere has to hold exactly what decides here, and to know that it does: by the
digests of `fleetplane_policy.digest`.

Everything is made once per set, whatever the number of watchers.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from controlplane.domain.policies import Effect, OnMissing, Policy, PolicySet

KEPT_SETS: Final = 64
"""Sets of all namespaces that are kept to tell changes from; each holds references, no copies. A
watcher that comes back with an older one gets the whole set."""

KEPT_DIFFERENCES: Final = 64
"""Differences between two sets that are kept: watchers ask for the same one at the same time."""

DIGEST_BYTES: Final = 16
"""Of the facts of one agent: tells accidents apart, guards no secret."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")
_encoder: Final = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """One policy."""

    policy: Policy
    digest: str
    size: int
    """Bytes of it as JSON: about what it takes on the wire."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedSet:
    """A set of policies and its digest. Compared by identity: use `digest`."""

    namespace: str
    digest: str
    candidate_id: str
    revision: int
    default_effect: Effect
    on_missing: OnMissing
    policies: Mapping[str, PublishedPolicy]

    @property
    def set_id(self) -> str:
        """What it is known by: its content, and the candidate that its decisions name."""
        return f"{self.digest}/{self.candidate_id}" if self.candidate_id else self.digest

    @property
    def heading(self) -> tuple[str, int, Effect, OnMissing]:
        """What a watcher holds of the set besides its policies; equal: nothing to tell."""
        return self.set_id, self.revision, self.default_effect, self.on_missing


@dataclass(frozen=True, slots=True)
class SetDifference:
    """What turns one set into another."""

    put: tuple[PublishedPolicy, ...]
    removed: tuple[str, ...]

    @property
    def changes(self) -> int:
        """How much there is to tell."""
        return len(self.put) + len(self.removed)


class PublishedSets:
    """The sets that are or were in force lately, on this replica."""

    def __init__(self) -> None:
        self._of_rules: _Kept[int, tuple[PolicySet, PublishedSet]] = _Kept(KEPT_SETS)
        """`id` of a set -> the set, which keeps that id taken, and what is published of it."""
        self._by_id: _Kept[tuple[str, str], PublishedSet] = _Kept(KEPT_SETS)
        self._latest: _Kept[str, PublishedSet] = _Kept(KEPT_SETS)
        self._differences: _Kept[tuple[str, str, str], SetDifference] = _Kept(KEPT_DIFFERENCES)

    def of(self, namespace: str, rules: PolicySet) -> PublishedSet:
        """Return what is published of a set that decides in a namespace."""
        known = self._of_rules.get(id(rules))
        if known is not None and known[1].namespace == namespace:
            return known[1]
        published = _published(namespace, rules, self._latest.get(namespace))
        self._of_rules.put(id(rules), (rules, published))
        self._by_id.put((namespace, published.set_id), published)
        self._latest.put(namespace, published)
        return published

    def known(self, namespace: str, set_id: str) -> PublishedSet | None:
        """Return a set that was in force lately; None if nobody remembers it."""
        return self._by_id.get((namespace, set_id)) if set_id else None

    def difference(self, base: PublishedSet | None, wanted: PublishedSet) -> SetDifference:
        """Return what turns `base` into `wanted`; without a base, all of it."""
        key = (wanted.namespace, base.set_id if base is not None else "", wanted.set_id)
        found = self._differences.get(key)
        if found is None:
            found = _difference(base.policies if base is not None else {}, wanted.policies)
            self._differences.put(key, found)
        return found


class _Kept(Generic[_Key, _Value]):
    """The most recently used of many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()

    def get(self, key: _Key) -> _Value | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)


def facts_digest(facts: Mapping[str, object]) -> str:
    """Return the digest of what policies may know about an agent."""
    return hashlib.blake2b(_encoder.encode(facts), digest_size=DIGEST_BYTES).hexdigest()


def _published(namespace: str, rules: PolicySet, earlier: PublishedSet | None) -> PublishedSet:
    """Publish a set; what is the same as in an earlier one is not looked at again."""
    known = earlier.policies if earlier is not None else {}
    digests = rules.digests
    policies: dict[str, PublishedPolicy] = {}
    for policy in rules.policies:
        before = known.get(policy.policy_id)
        policies[policy.policy_id] = (
            before
            if before is not None and before.policy is policy
            else PublishedPolicy(policy, digests[policy.policy_id], len(_encoder.encode(policy)))
        )
    return PublishedSet(
        namespace=namespace,
        digest=rules.digest,
        candidate_id=rules.candidate_id,
        revision=rules.revision,
        default_effect=rules.default_effect,
        on_missing=rules.on_missing,
        policies=policies,
    )


def _difference(
    base: Mapping[str, PublishedPolicy], wanted: Mapping[str, PublishedPolicy]
) -> SetDifference:
    put = tuple(
        one
        for policy_id, one in wanted.items()
        if (before := base.get(policy_id)) is None or before.digest != one.digest
    )
    return SetDifference(put, tuple(policy_id for policy_id in base if policy_id not in wanted))
