"""Standing grants: what may be granted in advance, and which of them an action uses.

They are judged by the policy engine: each is an ALLOW over a default of DENY, so that an absent or
ill-typed attribute never matches.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from controlplane.domain.approvals.model import BoundAction, StandingGrant
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import (
    Effect,
    OnError,
    Policy,
    PolicySet,
    Request,
    Target,
    validate_policy,
)

MAX_USES: Final = 50
"""Most uses of one grant."""

MAX_GRANT_MS: Final = 8 * 60 * 60 * 1000
"""Longest life of one grant."""

MAX_STANDING_GRANTS: Final = 1_000
"""Grants of one namespace that can be used."""


def require_valid_grant(grant: StandingGrant, now_ms: int) -> None:
    """Refuse a grant that says too much, or nothing.

    Raises:
        InvalidArgument: with every violation, as `grant.<field>`.
    """
    wrong = [FieldViolation(f"grant.{field}", why) for field, why in _violations(grant, now_ms)]
    wrong += [
        FieldViolation(f"grant.{_OWN_NAMES.get(v.field, v.field)}", v.description)
        for v in validate_policy(_as_policy(grant))
    ]
    if wrong:
        raise InvalidArgument(*wrong)


_OWN_NAMES: Final = {
    "targets.actions[0]": "action",
    "targets.tools[0]": "tool",
    "targets.agents[0]": "agent_name",
}
"""Field of a policy -> field of a grant."""


def _violations(grant: StandingGrant, now_ms: int) -> Iterator[tuple[str, str]]:
    if bool(grant.agent_name) == bool(grant.agent_id):
        yield "agent_name", "is required, or else agent_id"
    if "*" in grant.agent_name + grant.agent_id:
        yield "agent_name", "must be one agent"
    if not grant.action:
        yield "action", "is required"
    elif set(grant.action) <= set("*:/."):
        yield "action", "must not be every action"
    if not 1 <= grant.max_uses <= MAX_USES:
        yield "max_uses", f"must be 1-{MAX_USES}"
    if not now_ms < grant.expires_at_ms <= now_ms + MAX_GRANT_MS:
        yield "expires_at", "must be later than now, and within 8 h"
    if not grant.reason:
        yield "reason", "is required"


def is_usable(grant: StandingGrant, now_ms: int) -> bool:
    """Return whether a grant can be used once more."""
    return not grant.revoked_at_ms and now_ms < grant.expires_at_ms and grant.uses < grant.max_uses


class StandingGrants:
    """The grants of a namespace at one moment, ready to be asked."""

    def __init__(self, grants: Mapping[str, StandingGrant]) -> None:
        self._grants = grants
        self._rules = PolicySet.compile(
            (_as_policy(grant) for grant in grants.values() if not grant.revoked_at_ms),
            revision=0,
            default_effect=Effect.DENY,
            on_error=OnError.QUARANTINE,
        )

    def matching(
        self, action: BoundAction, claims: Mapping[str, Any], facts: Mapping[str, Any], now_ms: int
    ) -> Iterable[StandingGrant]:
        """Yield the grants that an action can use, the one that ends first at the beginning."""
        decision = self._rules.evaluate(
            Request(
                agent_id=action.agent_id,
                action=action.action,
                facts=facts,
                claims=claims,
                now_ms=now_ms,
                tool=action.tool,
            )
        )
        if decision.effect is not Effect.ALLOW:
            return ()
        found = (self._grants[grant_id] for grant_id in decision.determining)
        usable = (grant for grant in found if is_usable(grant, now_ms))
        return sorted(usable, key=lambda grant: (grant.expires_at_ms, grant.grant_id))


def _as_policy(grant: StandingGrant) -> Policy:
    return Policy(
        policy_id=grant.grant_id,
        action=Effect.ALLOW,
        conditions=grant.conditions,
        targets=Target(
            actions=(grant.action,) if grant.action else (),
            tools=(grant.tool,) if grant.tool else (),
            agents=tuple(filter(None, (grant.agent_name, grant.agent_id))),
        ),
    )
