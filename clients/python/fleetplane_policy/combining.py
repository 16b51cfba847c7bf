"""From the policies that said something to one decision.

1. A matching guardrail denies; no priority or scope overrides it.
2. Otherwise each scope level that has matching policies answers for itself: its highest priority
   wins, and inside that priority DENY before REQUIRE_APPROVAL before ALLOW.
3. Between the levels (namespace, agent name, agent id) the strictest answer wins: the policies of
   an agent can narrow what its namespace says, never widen it.
4. Nothing matched: LOG_ONLY when a LOG_ONLY policy matched and the default is ALLOW, else the
   default. An observation never opens a namespace whose default is DENY.

LOG_ONLY policies take part in nothing but 4; each that matched is an observation. Insertion order
never matters: every tie is settled by strictness, then listed by policy id.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from fleetplane_policy.compiled import CompiledPolicy, Judged
from fleetplane_policy.model import Decision, DecisionReason, Effect, Obligation, Observation
from fleetplane_policy.truth import ERROR, MISSING, SHOWN, TRUE

STRICTNESS: Final = {
    Effect.LOG_ONLY: 0,
    Effect.ALLOW: 1,
    Effect.REQUIRE_APPROVAL: 2,
    Effect.DENY: 3,
}
"""Which effect wins a tie; higher is stricter."""

_NAMED: Final = 3  # policies spelled out in a message; the rest is counted


def is_candidate(policy: CompiledPolicy, value: int) -> bool:
    """Whether a policy takes part in the decision with that condition value."""
    return policy.effect is not Effect.LOG_ONLY and value in policy.matching


def combine(
    judged: Iterable[Judged],
    *,
    default: Effect,
    empty: bool,
    revision: int,
    candidate_id: str = "",
) -> Decision:
    """Decide. `empty` says that the namespace has no policy at all."""
    everything = sorted(judged, key=lambda j: (-j[0].priority, j[0].policy_id))
    candidates = [j for j in everything if is_candidate(*j)]
    observations = tuple(
        Observation(policy_id=p.policy_id, result=SHOWN[value])
        for p, value in everything
        if p.effect is Effect.LOG_ONLY
    )
    if candidates:
        effect, reason, determining = _determine(candidates)
    else:
        effect, reason = _fallback(everything, default, empty=empty)
        determining = []
    ids = tuple(sorted(p.policy_id for p, _ in determining))
    if reason is DecisionReason.LOG_ONLY:
        ids = ()
    return Decision(
        effect=effect,
        reason=reason,
        revision=revision,
        candidate_id=candidate_id,
        determining=ids,
        overridden=tuple(p.policy_id for p, _ in candidates if p.effect is not effect),
        observations=observations,
        indeterminate=tuple(sorted(p.policy_id for p, v in everything if v in {MISSING, ERROR})),
        message=_message(effect, reason, determining, observations),
        obligations=_obligations(determining),
    )


def _obligations(determining: Sequence[Judged]) -> tuple[Obligation, ...]:
    """What the determining policies oblige to, in the order of their ids, each thing once."""
    found: list[Obligation] = []
    for policy, _ in sorted(determining, key=lambda j: j[0].policy_id):
        found += [one for one in policy.policy.obligations if one not in found]
    return tuple(found)


def _determine(candidates: Sequence[Judged]) -> tuple[Effect, DecisionReason, list[Judged]]:
    guardrails = [j for j in candidates if j[0].guardrail]
    if guardrails:
        return Effect.DENY, DecisionReason.GUARDRAIL, guardrails
    winners: list[Judged] = []
    for level in {p.level for p, _ in candidates}:
        winners += _winners_of_level([j for j in candidates if j[0].level == level])
    effect = max((p.effect for p, _ in winners), key=STRICTNESS.__getitem__)
    determining = [j for j in winners if j[0].effect is effect]
    certain = any(value == TRUE for _, value in determining)
    reason = DecisionReason.POLICY if certain else DecisionReason.CONDITION_INDETERMINATE
    return effect, reason, determining


def _winners_of_level(candidates: Sequence[Judged]) -> list[Judged]:
    highest = max(p.priority for p, _ in candidates)
    top = [j for j in candidates if j[0].priority == highest]
    effect = max((p.effect for p, _ in top), key=STRICTNESS.__getitem__)
    return [j for j in top if j[0].effect is effect]


def _fallback(
    everything: Sequence[Judged], default: Effect, *, empty: bool
) -> tuple[Effect, DecisionReason]:
    if empty:
        return default, DecisionReason.NO_POLICY_LOADED
    observed = any(p.effect is Effect.LOG_ONLY and value == TRUE for p, value in everything)
    if observed and default is Effect.ALLOW:
        return Effect.LOG_ONLY, DecisionReason.LOG_ONLY
    return default, DecisionReason.DEFAULT


def _message(
    effect: Effect,
    reason: DecisionReason,
    determining: Sequence[Judged],
    observations: Sequence[Observation],
) -> str:
    if reason is DecisionReason.NO_POLICY_LOADED:
        return f"{effect} by default: the namespace has no policy"
    if reason is DecisionReason.DEFAULT:
        return f"{effect} by default: no policy matched"
    if reason is DecisionReason.LOG_ONLY:
        matched = sorted(o.policy_id for o in observations if o.result == SHOWN[TRUE])
        return f"permitted and recorded: only LOG_ONLY {_names(matched)} matched"
    names = _names(sorted(_title(p) for p, _ in determining))
    if reason is DecisionReason.GUARDRAIL:
        return f"{effect} by guardrail {names}"
    if reason is DecisionReason.CONDITION_INDETERMINATE:
        return f"{effect} by policy {names}: its condition could not be determined"
    return f"{effect} by policy {names}"


def _title(policy: CompiledPolicy) -> str:
    name = policy.policy.name
    if not name or name == policy.policy_id:
        return policy.policy_id
    return f"{policy.policy_id} ({name})"


def _names(titles: Sequence[str]) -> str:
    shown = ", ".join(titles[:_NAMED])
    more = len(titles) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
