"""Grants in advance."""

from dataclasses import replace

import pytest

from controlplane.domain.approvals.model import StandingGrant
from controlplane.domain.approvals.standing import (
    MAX_GRANT_MS,
    StandingGrants,
    is_usable,
    require_valid_grant,
)
from controlplane.domain.errors import InvalidArgument
from tests.fakes.approvals import ACTION, NOW

GRANT = StandingGrant(
    grant_id="sgr-1",
    agent_name="payer",
    agent_id="",
    action="pay",
    tool="",
    conditions={"attr": "estimated_cost", "op": "lte", "value": 5},
    max_uses=2,
    expires_at_ms=NOW + 1_000,
    reason="the night run",
    created_by="user:ann",
)
FACTS = {"agent_name": "payer", "agent_id": "a"}


def matching(*grants: StandingGrant, now: int = NOW, action=ACTION, **claims) -> list[str]:
    book = StandingGrants({one.grant_id: one for one in grants})
    return [one.grant_id for one in book.matching(action, claims, FACTS, now)]


def test_it_holds_for_what_it_says():
    assert matching(GRANT, estimated_cost=5) == ["sgr-1"]
    assert matching(GRANT, estimated_cost=5.1) == []
    assert matching(GRANT) == [], "what is not said is not below a bound"
    assert matching(GRANT, estimated_cost="cheap") == []
    assert matching(GRANT, action=replace(ACTION, action="refund"), estimated_cost=1) == []


def test_it_holds_for_one_agent():
    assert matching(replace(GRANT, agent_name="reader"), estimated_cost=1) == []
    assert matching(replace(GRANT, agent_name="", agent_id="a"), estimated_cost=1) == ["sgr-1"]


def test_it_is_used_up_taken_back_and_over():
    assert matching(replace(GRANT, uses=2), estimated_cost=1) == []
    assert matching(replace(GRANT, revoked_at_ms=NOW), estimated_cost=1) == []
    assert matching(GRANT, now=NOW + 1_000, estimated_cost=1) == []
    assert is_usable(replace(GRANT, uses=1), NOW)


def test_the_one_that_ends_first_is_used_first():
    sooner = replace(GRANT, grant_id="sgr-2", expires_at_ms=NOW + 10)
    assert matching(GRANT, sooner, estimated_cost=1) == ["sgr-2", "sgr-1"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("agent_name", "", "grant.agent_name"),
        ("agent_id", "a", "grant.agent_name"),
        ("agent_name", "pay*", "grant.agent_name"),
        ("action", "", "grant.action"),
        ("action", "**", "grant.action"),
        ("max_uses", 0, "grant.max_uses"),
        ("max_uses", 51, "grant.max_uses"),
        ("expires_at_ms", NOW, "grant.expires_at"),
        ("expires_at_ms", NOW + MAX_GRANT_MS + 1, "grant.expires_at"),
        ("reason", "", "grant.reason"),
        ("conditions", {"estimted_cost": 1}, "grant.conditions.estimted_cost"),
    ],
)
def test_one_that_says_too_much_or_nothing_is_refused(field, value, named):
    require_valid_grant(GRANT, NOW)
    with pytest.raises(InvalidArgument) as refused:
        require_valid_grant(replace(GRANT, **{field: value}), NOW)
    assert refused.value.violations[0].field == named
