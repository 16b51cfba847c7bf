"""Candidates: changes to the live policies that are tried before they decide; and stages. Pure.

A candidate is a difference to the live set as it was when it was written: policies to put and to
delete. What decides for an agent under it is the live set of now with that difference. So a policy
that somebody adds in a hurry holds for every agent, whether or not a candidate decides for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.policies import Policy, PolicySet, same_content
from controlplane.domain.policy_sets.history import PolicyDifference
from controlplane.domain.policy_sets.tests import PolicyTest
from controlplane.domain.routes import bucket

STAGE_KEY: Final = "stage"
"""Storage key of the one stage a namespace has."""

MAX_CANDIDATES: Final = 20
"""Candidates of a namespace: each is in the memory of every replica."""

CANDIDATES_COUNTER: Final = "policy-candidates"
"""Counts them, so that two calls at once do not pass the bound."""

MAX_CHANGES: Final = 1_000
"""Policies that a candidate puts and deletes together: one commit activates it."""

MAX_CANDIDATE_BYTES: Final = 3 * 1024 * 1024
"""Size of a candidate's policies as a message: one call must be able to return it."""

BUCKETS_PER_PERCENT: Final = 100
"""Of the 10,000 buckets of `routes.bucket`."""

WHOLE_PERCENT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCandidate:
    """A change to the live set, not live. Immutable: another change is another candidate."""

    candidate_id: str
    description: str = ""
    base_revision: int = 0
    """The live revision that it was written against."""
    put: tuple[Policy, ...] = ()
    """Policies to add or replace, ordered by id."""
    delete: tuple[str, ...] = ()
    """Ids of policies to remove, in order."""
    tests: tuple[PolicyTest, ...] | None = None
    """Tests that replace those of the live set with it; None: they stay."""
    created_by: str = ""
    reason: str = ""
    revision: int = 0
    created_at_ms: int = 0

    def applied_to(self, live: Mapping[str, Policy]) -> dict[str, Policy]:
        """Return the policies that would be live."""
        gone = frozenset(self.delete)
        kept = {key: policy for key, policy in live.items() if key not in gone}
        kept.update((policy.policy_id, policy) for policy in self.put)
        return kept

    def changes_to(self, live: Mapping[str, Policy]) -> tuple[PolicyDifference, ...]:
        """Return what it would change now, by id; empty: the live set says all of it already."""
        found = [
            PolicyDifference(policy_id=key, before=live[key], after=None)
            for key in self.delete
            if key in live
        ]
        for policy in self.put:
            before = live.get(policy.policy_id)
            if before is None or not same_content(before, policy):
                found.append(
                    PolicyDifference(policy_id=policy.policy_id, before=before, after=policy)
                )
        return tuple(sorted(found, key=lambda one: one.policy_id))

    def rules(self, live: PolicySet, earlier: PolicySet | None = None) -> PolicySet:
        """Return what decides under it, given what decides without it.

        `earlier`: what decided under it on an earlier live set; spares compiling it again.
        """
        return live.with_candidate(
            self.candidate_id, put=self.put, delete=self.delete, compiled_in=earlier
        )


class StageKind(StrEnum):
    """How far a candidate is.

    PERCENT: it decides for a share of the agents. SHADOW: it decides for nobody; what it would
    decide is compared.
    """

    PERCENT = "PERCENT"
    SHADOW = "SHADOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStage:
    """The candidate that is being tried, and on whom."""

    stage_id: str
    kind: StageKind
    candidate_id: str
    percent: int = 0
    """Of PERCENT: 1-99."""
    started_by: str = ""
    started_at_ms: int = 0
    reason: str = ""
    """Of its last change."""
    updated_by: str = ""
    updated_at_ms: int = 0
    revision: int = 0

    @property
    def salt(self) -> str:
        """What the buckets of its agents are counted with: the same as long as the stage lives."""
        return f"policy:{self.stage_id}"

    def decides_for(self, agent_id: str) -> bool:
        """Whether the candidate decides for this agent.

        The same on every replica and after every restart; a higher percentage keeps whom a lower
        one had.
        """
        if self.kind is not StageKind.PERCENT:
            return False
        return bucket(self.salt, agent_id) < self.percent * BUCKETS_PER_PERCENT
