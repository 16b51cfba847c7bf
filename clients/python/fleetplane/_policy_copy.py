"""A copy of what decides for some agents: sets of policies and facts. Immutable; made anew.

Needs the extra `policies`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fleetplane._policy_messages import effect_of, on_missing_of, policy_of
from fleetplane._values import from_struct
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane_policy import Effect, OnError, OnMissing, Policy, PolicySet
from fleetplane_policy.digest import set_digest


class CopyDiverged(Exception):
    """What arrived does not fit what is held; start over with nothing."""


@dataclass(frozen=True, slots=True)
class HeldSet:
    """One set of policies."""

    rules: PolicySet
    digest: str
    digests: Mapping[str, str]
    """Of its policies, by id."""


@dataclass(frozen=True, slots=True)
class HeldAgent:
    """What decides for one agent."""

    facts: Mapping[str, Any]
    facts_digest: str
    set_id: str
    digest: str
    """Of that set."""
    rules: PolicySet


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PolicyCopy:
    """All that is held. `None` for an agent: the registry has no such agent."""

    sets: Mapping[str, HeldSet] = field(default_factory=lambda: _NOTHING)
    agents: Mapping[str, HeldAgent | None] = field(default_factory=lambda: _NOTHING)

    def wanted(self, agent_ids: Iterable[str]) -> list[pb.WatchedPolicyAgent]:
        """Return what to ask for: some agents, and what is held about them."""
        return [
            pb.WatchedPolicyAgent(agent_id=agent_id)
            if (held := self.agents.get(agent_id)) is None
            else pb.WatchedPolicyAgent(
                agent_id=agent_id,
                held_facts_digest=held.facts_digest,
                held_set_id=held.set_id,
            )
            for agent_id in agent_ids
        ]

    def without(self, agent_ids: Iterable[str]) -> "PolicyCopy":
        """Return the copy without some agents, and without the sets that were theirs alone."""
        gone = set(agent_ids)
        agents = {key: held for key, held in self.agents.items() if key not in gone}
        return PolicyCopy(_in_use(self.sets, agents), agents)

    def after(self, messages: Sequence[pb.WatchPoliciesResponse]) -> "PolicyCopy":
        """Return the copy with everything that messages up to a complete one say.

        Raises:
            CopyDiverged: a set or facts that it builds on are not held, or the digest of a set
                comes out differently.
        """
        sets = dict(self.sets)
        for parts in _by_set(messages):
            sets[parts[0].set_id] = self._set_of(parts)
        agents = {
            agent_id: None if held is None else _agent(held, held.set_id, sets)
            for agent_id, held in self.agents.items()
        }
        for message in messages:
            for news in message.agents:
                agents[news.agent_id] = _told(news, self.agents.get(news.agent_id), sets)
        return PolicyCopy(_in_use(sets, agents), agents)

    def _set_of(self, parts: Sequence[pb.PolicySetPart]) -> HeldSet:
        """Put a set together from its parts."""
        heading = parts[0]
        base = self.sets.get(heading.base_set_id) if heading.base_set_id else None
        if heading.base_set_id and base is None:
            raise CopyDiverged(f"the changes are to a set that is not held: {heading.base_set_id}")
        removed = [policy_id for part in parts for policy_id in part.removed_policy_ids]
        put = [one for part in parts for one in part.policies]
        digests = dict(base.digests) if base is not None else {}
        for policy_id in removed:
            digests.pop(policy_id, None)
        digests.update((one.policy.policy_id, one.digest) for one in put)
        if set_digest(digests) != heading.digest:
            raise CopyDiverged(f"the policies are not those of {heading.digest}")
        policies = [policy_of(one.policy) for one in put]
        rules = _rules(heading, base.rules if base is not None else None, policies, removed)
        return HeldSet(rules, heading.digest, digests)


def _rules(
    heading: pb.PolicySetPart,
    base: PolicySet | None,
    policies: Iterable[Policy],
    removed: Iterable[str],
) -> PolicySet:
    """Compile what is new; a policy that this release cannot read is judged as one that errs."""
    default = effect_of(heading.default_effect)
    default = default if default in {Effect.ALLOW, Effect.DENY} else Effect.DENY
    on_missing = on_missing_of(heading.on_missing) or OnMissing.NO_MATCH
    if base is None:
        base = PolicySet.compile(
            (), revision=heading.revision, default_effect=default, on_missing=on_missing
        )
    rules = base.with_changes(
        put=policies, delete=removed, revision=heading.revision, on_error=OnError.QUARANTINE
    )
    if (rules.default_effect, rules.on_missing) != (default, on_missing):
        rules = rules.with_defaults(
            default_effect=default, on_missing=on_missing, revision=heading.revision
        )
    if rules.candidate_id != heading.candidate_id:
        rules = rules.with_candidate(heading.candidate_id, put=(), delete=())
    return rules


def _by_set(messages: Iterable[pb.WatchPoliciesResponse]) -> Iterator[list[pb.PolicySetPart]]:
    parts: dict[str, list[pb.PolicySetPart]] = {}
    for message in messages:
        for part in message.sets:
            parts.setdefault(part.set_id, []).append(part)
    yield from parts.values()


def _told(
    news: pb.AgentPolicies, held: HeldAgent | None, sets: Mapping[str, HeldSet]
) -> HeldAgent | None:
    if news.absent:
        return None
    if news.HasField("facts"):
        facts: Mapping[str, Any] = from_struct(news.facts)
    elif held is not None and held.facts_digest == news.facts_digest:
        facts = held.facts
    else:
        raise CopyDiverged(f"the facts about {news.agent_id} are not held")
    return _agent(HeldAgent(facts, news.facts_digest, "", "", _NO_RULES), news.set_id, sets)


def _agent(held: HeldAgent, set_id: str, sets: Mapping[str, HeldSet]) -> HeldAgent:
    """Return an agent under a set."""
    known = sets.get(set_id)
    if known is None:
        raise CopyDiverged(f"the set is not held: {set_id}")
    if held.rules is known.rules:
        return held
    return HeldAgent(held.facts, held.facts_digest, set_id, known.digest, known.rules)


def _in_use(
    sets: Mapping[str, HeldSet], agents: Mapping[str, HeldAgent | None]
) -> dict[str, HeldSet]:
    used = {held.set_id for held in agents.values() if held is not None}
    return {set_id: one for set_id, one in sets.items() if set_id in used}


_NO_RULES: Final = PolicySet.compile((), revision=0)
"""Of an agent whose set was not looked up yet."""
