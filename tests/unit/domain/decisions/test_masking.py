import pytest

from controlplane.domain.decisions.masking import Mask, mask_of, readers_of_masked
from controlplane.domain.decisions.records import MASKED
from controlplane.domain.policies import Effect, ExplainLevel, Policy, PolicySet, Request


@pytest.mark.parametrize(
    ("paths", "claims", "masked", "hit"),
    [
        (["card"], {"card": "4711", "x": 1}, {"card": MASKED, "x": 1}, ["card"]),
        (["card"], {"card": {"number": "4711"}}, {"card": MASKED}, ["card"]),
        (["card"], {"card": ["4711"]}, {"card": MASKED}, ["card"]),
        (
            ["card.number"],
            {"card": {"number": "4711", "name": "n"}},
            {"card": {"number": MASKED, "name": "n"}},
            ["card.number"],
        ),
        (
            ["users.*.token"],
            {"users": {"ann": {"token": "t"}, "bob": {"x": 1}}},
            {"users": {"ann": {"token": MASKED}, "bob": {"x": 1}}},
            ["users.ann.token"],
        ),
        (
            ["users.token"],
            {"users": [{"token": "t"}, {"token": "u", "x": 1}, "plain"]},
            {"users": [{"token": MASKED}, {"token": MASKED, "x": 1}, "plain"]},
            ["users.token"],
        ),
        (["*"], {"a": 1, "b": None}, {"a": MASKED, "b": MASKED}, ["a", "b"]),
        (["a", "b.c"], {"a": 1, "b": {"c": 2}}, {"a": MASKED, "b": {"c": MASKED}}, ["a", "b.c"]),
        (["a.b"], {"a": "text"}, {"a": "text"}, []),
        (["absent"], {"a": 1}, {"a": 1}, []),
    ],
)
def test_what_a_path_names_is_masked_and_nothing_else(paths, claims, masked, hit):
    assert Mask(paths).apply(claims) == (masked, tuple(hit))


def test_what_is_masked_was_not_changed_itself():
    claims = {"card": {"number": "4711"}}

    Mask(("card.number",)).apply(claims)

    assert claims == {"card": {"number": "4711"}}


def test_claims_without_secrets_are_not_copied():
    claims = {"a": {"b": [1, 2]}}

    assert mask_of(("card", "a.c.d")).apply(claims)[0] is claims


@pytest.mark.parametrize(
    ("attribute", "masked", "reads"),
    [
        ("claim.card", "card", True),
        ("claim.card.number", "card", True),
        ("claim.card", "card.number", True),
        ("environment", "environment", True),
        ("claim.card.name", "card.number", False),
        ("environment", "card", False),
    ],
)
def test_policies_that_read_masked_values_are_named(attribute, masked, reads):
    rules = PolicySet.compile(
        [
            Policy(
                policy_id="p",
                action=Effect.DENY,
                conditions={"not": {"attr": attribute, "op": "eq", "value": "x"}},
            ),
            Policy(policy_id="other", action=Effect.DENY, conditions={"action": "read"}),
        ],
        revision=1,
    )
    request = Request(agent_id="a", action="read", facts={}, claims={}, now_ms=1)
    explanation = rules.evaluate(request, explain=ExplainLevel.FULL).explanation

    assert explanation is not None
    assert readers_of_masked(explanation, (masked,)) == (("p",) if reads else ())
