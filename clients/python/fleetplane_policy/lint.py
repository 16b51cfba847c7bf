"""Warnings about policies that are valid but probably not meant so; they refuse nothing."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, islice
from typing import Final

from fleetplane_policy.attributes import DEFAULT_SCHEMA, UNSET, AttributeSchema, Source
from fleetplane_policy.compiled import NAMESPACE_LEVEL, CompiledPolicy
from fleetplane_policy.compiler import ConditionCompiler
from fleetplane_policy.model import Effect, OnMissing, Policy
from fleetplane_policy.nodes import Always, Leaf, leaves, required, required_strings
from fleetplane_policy.operators import PRESENCE
from fleetplane_policy.truth import MISSING

WARNINGS_LIMIT: Final = 200
"""Warnings returned at most; a set with more has one cause repeated."""

PAIRS_LIMIT: Final = 200_000
"""Pairs of policies compared for overlap at most: a few hundred milliseconds."""


class LintCode(StrEnum):
    """What is suspicious.

    EQUAL_PRIORITY_CONFLICT: two policies of one priority and level want different things and may
    match the same request (the stricter wins). UNGUARANTEED_ATTRIBUTE: a DENY or REQUIRE_APPROVAL
    does not match when an attribute is absent that nobody guarantees, so leaving it out avoids the
    policy. NEVER_MATCHES: the required values exclude one another. AGENT_CANNOT_WIDEN: an ALLOW of
    one agent, which can only matter under a default of DENY. GUARDRAIL_READS_CLAIM: a guardrail
    believes the caller. SHADOWED: a policy without conditions and of higher priority always wins
    where this one matches. OBSERVES_IN_VAIN: a LOG_ONLY that always matches, and so tells nothing.
    IDLE_OBLIGATION: obligations of a LOG_ONLY, which never determines a decision.
    """

    EQUAL_PRIORITY_CONFLICT = "EQUAL_PRIORITY_CONFLICT"
    UNGUARANTEED_ATTRIBUTE = "UNGUARANTEED_ATTRIBUTE"
    NEVER_MATCHES = "NEVER_MATCHES"
    AGENT_CANNOT_WIDEN = "AGENT_CANNOT_WIDEN"
    GUARDRAIL_READS_CLAIM = "GUARDRAIL_READS_CLAIM"
    SHADOWED = "SHADOWED"
    OBSERVES_IN_VAIN = "OBSERVES_IN_VAIN"
    IDLE_OBLIGATION = "IDLE_OBLIGATION"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintWarning:
    """One warning, about one policy or a pair."""

    code: LintCode
    policy_ids: tuple[str, ...]
    message: str


def lint(
    policies: Iterable[Policy],
    schema: AttributeSchema = DEFAULT_SCHEMA,
    on_missing: OnMissing = OnMissing.NO_MATCH,
) -> tuple[LintWarning, ...]:
    """Return the warnings about the enabled ones among these policies, at most 200.

    `on_missing` is what an absent attribute means to the policies that do not say.
    """
    compiler = ConditionCompiler()
    compiled = sorted(
        (CompiledPolicy(p, schema, compiler, on_missing) for p in policies if p.enabled),
        key=lambda c: c.policy_id,
    )
    return tuple(islice(_warnings(compiled), WARNINGS_LIMIT))


def _warnings(compiled: Sequence[CompiledPolicy]) -> Iterator[LintWarning]:
    for policy in compiled:
        yield from _about_one(policy)
    yield from _shadowed(compiled)
    yield from _conflicts(compiled)


def _about_one(policy: CompiledPolicy) -> Iterator[LintWarning]:
    ids = (policy.policy_id,)
    if _contradictory(policy):
        yield LintWarning(
            code=LintCode.NEVER_MATCHES,
            policy_ids=ids,
            message=f"{policy.policy_id} can never match: its required values exclude one another",
        )
    if policy.effect is Effect.ALLOW and policy.level != NAMESPACE_LEVEL:
        yield LintWarning(
            code=LintCode.AGENT_CANNOT_WIDEN,
            policy_ids=ids,
            message=f"{policy.policy_id} allows for one agent; it cannot beat a policy of the"
            " namespace and matters only where the default is DENY",
        )
    if policy.effect in {Effect.DENY, Effect.REQUIRE_APPROVAL}:
        yield from _avoidable(policy)
    if policy.effect is Effect.LOG_ONLY:
        yield from _idle(policy)


def _idle(policy: CompiledPolicy) -> Iterator[LintWarning]:
    if policy.policy.match_all and policy.level == NAMESPACE_LEVEL and not _narrows(policy):
        yield LintWarning(
            code=LintCode.OBSERVES_IN_VAIN,
            policy_ids=(policy.policy_id,),
            message=f"{policy.policy_id} observes every action; every decision is recorded anyway",
        )
    if policy.policy.obligations:
        yield LintWarning(
            code=LintCode.IDLE_OBLIGATION,
            policy_ids=(policy.policy_id,),
            message=f"{policy.policy_id} is LOG_ONLY: its obligations never come with a decision",
        )


def _shadowed(compiled: Sequence[CompiledPolicy]) -> Iterator[LintWarning]:
    """Policies that never decide, because one that asks for nothing has a higher priority."""
    sweeping = [
        p
        for p in compiled
        if isinstance(p.node, Always) and p.effect is not Effect.LOG_ONLY and not _narrows(p)
    ]
    for policy in compiled:
        if policy.guardrail or policy.effect is Effect.LOG_ONLY:
            continue
        winner = next((p for p in sweeping if _always_beats(p, policy)), None)
        if winner is not None:
            yield LintWarning(
                code=LintCode.SHADOWED,
                policy_ids=(policy.policy_id, winner.policy_id),
                message=f"{policy.policy_id} never decides: {winner.policy_id} ({winner.effect})"
                f" has the higher priority {winner.priority} and matches wherever it does",
            )


def _narrows(policy: CompiledPolicy) -> bool:
    """Whether something else than actions and tools decides where the policy applies."""
    stated = policy.policy
    limited = stated.not_before_ms is not None or stated.not_after_ms is not None
    return limited or bool(stated.targets.agents)


def _always_beats(one: CompiledPolicy, other: CompiledPolicy) -> bool:
    if one.priority <= other.priority or one.policy.scope != other.policy.scope:
        return False
    return all(
        not stated or (mine is not None and theirs is not None and theirs <= mine)
        for stated, mine, theirs in (
            (one.policy.targets.actions, one.actions, other.actions),
            (one.policy.targets.tools, one.tools, other.tools),
        )
    )


def _contradictory(policy: CompiledPolicy) -> bool:
    literals = (policy.actions, policy.tools, *required_strings(policy.node).values())
    return any(values is not None and not values for values in literals)


def _avoidable(policy: CompiledPolicy) -> Iterator[LintWarning]:
    unsure = sorted({leaf.attribute.shown for leaf in leaves(policy.node) if _may_be_absent(leaf)})
    checked = {
        leaf.attribute.shown
        for leaf in required(policy.node)
        if leaf.operator == "exists" and leaf.value is True
    }
    unsure = [name for name in unsure if name not in checked]
    if not unsure:
        return
    names = ", ".join(unsure)
    if MISSING not in policy.matching:
        yield LintWarning(
            code=LintCode.UNGUARANTEED_ATTRIBUTE,
            policy_ids=(policy.policy_id,),
            message=f"{policy.policy_id} does not match when {names} is left out, and nobody"
            " guarantees it; on_missing MATCH makes it fail closed",
        )
    elif policy.guardrail:
        yield LintWarning(
            code=LintCode.GUARDRAIL_READS_CLAIM,
            policy_ids=(policy.policy_id,),
            message=f"guardrail {policy.policy_id} believes what the caller says about {names}",
        )


def _may_be_absent(leaf: Leaf) -> bool:
    """Whether the caller can leave the attribute out; facts are not the caller's to leave out."""
    attribute = leaf.attribute
    settled = leaf.operator in PRESENCE or attribute.default is not UNSET
    claimable = attribute.source in {Source.CLAIM, Source.EITHER}
    return claimable and not attribute.guaranteed and not settled


def _conflicts(compiled: Sequence[CompiledPolicy]) -> Iterator[LintWarning]:
    groups: defaultdict[tuple[int, int], list[CompiledPolicy]] = defaultdict(list)
    for policy in compiled:
        if policy.effect is not Effect.LOG_ONLY and not policy.guardrail:
            groups[policy.level, policy.priority].append(policy)
    pairs = (pair for group in groups.values() for pair in combinations(group, 2))
    for one, other in islice(pairs, PAIRS_LIMIT):
        if one.effect is not other.effect and _may_overlap(one, other):
            yield LintWarning(
                code=LintCode.EQUAL_PRIORITY_CONFLICT,
                policy_ids=(one.policy_id, other.policy_id),
                message=f"{one.policy_id} ({one.effect}) and {other.policy_id} ({other.effect})"
                f" have priority {one.priority} and may match the same request; the stricter wins",
            )


def _may_overlap(one: CompiledPolicy, other: CompiledPolicy) -> bool:
    """False only when the two provably never match the same request."""
    if one.policy.scope != other.policy.scope:
        return False
    for mine, theirs in ((one.actions, other.actions), (one.tools, other.tools)):
        if mine is not None and theirs is not None and mine.isdisjoint(theirs):
            return False
    ours, others = required_strings(one.node), required_strings(other.node)
    return all(not ours[where].isdisjoint(others[where]) for where in ours.keys() & others.keys())
