"""Random policies and random requests, for laws that hold for all of them."""

from hypothesis import strategies as st

from fleetplane_policy import (
    Effect,
    OnMissing,
    Policy,
    PolicyScope,
    Request,
    Target,
)

ACTIONS = ("read", "write", "db:users:read", "db:users:write", "db:a:b:write")
TOOLS = ("", "shell", "sql:select")
AGENTS = ("agent-1", "agent-2")
NAMES = ("worker", "night-shift")
VALUES = ("production", "staging", 1, 1.0, 2.5, True, None, "1")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(VALUES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)

leaves = st.one_of(
    st.builds(lambda a: {"action": a}, st.sampled_from(ACTIONS)),
    st.builds(lambda a: {"action": a}, st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3)),
    st.builds(lambda t: {"tool": t}, st.sampled_from(TOOLS)),
    st.builds(lambda e: {"environment": e}, st.sampled_from(("production", "staging"))),
    st.builds(lambda n: {"estimated_cost_exceeds": n}, st.sampled_from((0, 1.0, 2.5))),
    st.builds(lambda v: {"claim.x": v}, st.sampled_from(VALUES)),
    st.builds(lambda v: {"claim": {"m": {"k": v}}}, st.sampled_from(VALUES)),
    st.builds(lambda s: {"agent_tags": {"scope": s}}, st.sampled_from(("internal", "public"))),
    st.builds(
        lambda op, value, missing: {"attr": "claim.x", "op": op, "value": value, **missing},
        st.sampled_from(("eq", "ne")),
        st.sampled_from(VALUES),
        st.sampled_from(({}, {"if_missing": "match"}, {"if_missing": "no_match"})),
    ),
    st.just({"attr": "claim.x", "op": "exists"}),
    st.just({"attr": "claim.x", "op": "contains", "value": 1}),
    st.just({"attr": "action", "op": "glob", "value": "db:*:write"}),
)

conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda items: {"all": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda items: {"any": items}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"not": item}, inner),
    ),
    max_leaves=6,
)

targets = st.builds(
    lambda actions, tools, agents: Target(actions=actions, tools=tools, agents=agents),
    st.sampled_from(((), ("read",), ("db:*:write", "read"), ("db:**",), ("**",))),
    st.sampled_from(((), ("shell",), ("sql:*",))),
    st.sampled_from(((), ("agent-1",), ("night-*",))),
)

scopes = st.sampled_from(
    (
        PolicyScope(),
        PolicyScope(),
        PolicyScope(agent_name="worker"),
        PolicyScope(agent_id="agent-2"),
    )
)

windows = st.sampled_from(((None, None), (None, None), (100, None), (None, 100), (50, 150)))


@st.composite
def policy_lists(draw: st.DrawFn, max_size: int = 8) -> list[Policy]:
    policies = []
    for number in range(draw(st.integers(0, max_size))):
        effect = draw(st.sampled_from(Effect))
        start, end = draw(windows)
        policies.append(
            Policy(
                policy_id=f"p{number}",
                action=effect,
                conditions=draw(conditions),
                priority=draw(st.integers(-1, 2)),
                enabled=draw(st.integers(0, 9)) > 0,
                guardrail=effect is Effect.DENY and draw(st.integers(0, 5)) == 0,
                on_missing=draw(st.sampled_from(OnMissing)),
                targets=draw(targets),
                scope=draw(scopes),
                not_before_ms=start,
                not_after_ms=end,
            )
        )
    return policies


requests = st.builds(
    lambda agent, name, action, tool, tags, claims, now: Request(
        agent_id=agent,
        action=action,
        tool=tool,
        facts={"agent_name": name, "agent_tags": tags},
        claims=claims,
        now_ms=now,
    ),
    st.sampled_from(AGENTS),
    st.sampled_from(NAMES),
    st.sampled_from((*ACTIONS, "unheard")),
    st.sampled_from(TOOLS),
    st.sampled_from(({}, {"scope": "internal"}, {"scope": "public"})),
    st.fixed_dictionaries(
        {},
        optional={
            "x": json_values,
            "m": json_values,
            "environment": st.sampled_from(VALUES),
            "estimated_cost": json_values,
        },
    ),
    st.sampled_from((0, 50, 99, 100, 149, 150)),
)

defaults = st.sampled_from((Effect.ALLOW, Effect.DENY))
