"""SPIFFE ids are read in one way only, and nobody else's rule speaks for our trust domain."""

import pytest

from controlplane.domain.access.spiffe import (
    AgentRule,
    agent_spiffe_id,
    own_agent,
    trust_domain_of,
)
from controlplane.domain.identity import AgentIdentity

OURS = "fleetplane.local"
ANN = AgentIdentity(namespace="team-a", agent_name="ann")

UNREADABLE = {
    "empty": "",
    "no path": "spiffe://fleetplane.local",
    "an empty path": "spiffe://fleetplane.local/",
    "upper case scheme": "SPIFFE://fleetplane.local/ns/team-a/agent/ann",
    "upper case domain": "spiffe://Fleetplane.local/ns/team-a/agent/ann",
    "a port": "spiffe://fleetplane.local:443/ns/team-a/agent/ann",
    "a user": "spiffe://x@fleetplane.local/ns/team-a/agent/ann",
    "a query": "spiffe://fleetplane.local/ns/team-a/agent/ann?x",
    "a fragment": "spiffe://fleetplane.local/ns/team-a/agent/ann#x",
    "percent signs": "spiffe://fleetplane.local/ns/team-a/agent/%61nn",
    "an encoded slash": "spiffe://fleetplane.local/ns/team-a/agent/ann%2fbob",
    "an empty segment": "spiffe://fleetplane.local/ns//agent/ann",
    "a trailing slash": "spiffe://fleetplane.local/ns/team-a/agent/ann/",
    "dots": "spiffe://fleetplane.local/ns/x/../team-a/agent/ann",
    "a dot": "spiffe://fleetplane.local/./ns/team-a/agent/ann",
    "dots at the end": "spiffe://fleetplane.local/ns/team-a/agent/..",
    "a NUL": "spiffe://fleetplane.local/ns/team-a/agent/ann\0",
    "a newline": "spiffe://fleetplane.local/ns/team-a/agent/ann\n",
    "bidi": "spiffe://fleetplane.local/ns/team-a/agent/\u202eann",
    "a wildcard": "spiffe://fleetplane.local/ns/team-a/agent/*",
    "another scheme": "https://fleetplane.local/ns/team-a/agent/ann",
    "too long": "spiffe://fleetplane.local/" + "a" * 2048,
}

NO_AGENT = {
    "another domain": "spiffe://evil.local/ns/team-a/agent/ann",
    "a longer domain": "spiffe://fleetplane.local.evil/ns/team-a/agent/ann",
    "the daemon": "spiffe://fleetplane.local/daemon",
    "too deep": "spiffe://fleetplane.local/ns/team-a/agent/ann/bob",
    "before": "spiffe://fleetplane.local/x/ns/team-a/agent/ann",
    "upper case words": "spiffe://fleetplane.local/NS/team-a/agent/ann",
    "upper case namespace": "spiffe://fleetplane.local/ns/Team-A/agent/ann",
    "a namespace with dots": "spiffe://fleetplane.local/ns/team.a/agent/ann",
    "a name that is none": "spiffe://fleetplane.local/ns/team-a/agent/-ann",
}


def test_an_agent_is_written_and_read_alike():
    spiffe_id = agent_spiffe_id(OURS, ANN)
    assert spiffe_id == "spiffe://fleetplane.local/ns/team-a/agent/ann"
    assert own_agent(spiffe_id, OURS) == ANN
    assert trust_domain_of(spiffe_id) == OURS


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_what_could_be_read_in_two_ways_is_not_read_at_all(text):
    assert trust_domain_of(text) is None
    assert own_agent(text, OURS) is None


@pytest.mark.parametrize("text", NO_AGENT.values(), ids=NO_AGENT)
def test_what_is_not_written_like_an_agent_of_ours_is_none(text):
    assert trust_domain_of(text) is not None
    assert own_agent(text, OURS) is None


@pytest.mark.parametrize(
    ("rule", "spiffe_id", "expected"),
    [
        (
            "spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            "spiffe://prod.example/ns/team-a/sa/ann",
            ANN,
        ),
        (
            "spiffe://prod.example/agents/{agent_name}",
            "spiffe://prod.example/agents/ann",
            AgentIdentity(namespace="default", agent_name="ann"),
        ),
        (
            "spiffe://prod.example/{namespace}/agent-{agent_name}",
            "spiffe://prod.example/team-a/agent-ann",
            ANN,
        ),
        (
            "spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            "spiffe://prod.example/ns/Team-A/sa/ann",
            None,
        ),
        (
            "spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            "spiffe://prod.example/ns/team-a/sa/ann/x",
            None,
        ),
        (
            "spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            "spiffe://prodXexample/ns/team-a/sa/ann",
            None,
        ),
        (
            "spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            "spiffe://prod.example.evil/ns/team-a/sa/ann",
            None,
        ),
        (
            "spiffe://prod.example/a.b/{agent_name}",
            "spiffe://prod.example/aXb/ann",
            None,
        ),
    ],
)
def test_a_rule_says_which_foreign_ids_are_agents(rule, spiffe_id, expected):
    assert AgentRule(rule).agent_of(spiffe_id) == expected


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_no_rule_reads_the_unreadable(text):
    rule = AgentRule("spiffe://fleetplane.local/ns/{namespace}/agent/{agent_name}")
    assert rule.agent_of(text) is None


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "spiffe://prod.example/ns/{namespace}",
        "spiffe://prod.example/{agent_name}/{agent_name}",
        "spiffe://prod.example/{namespace}/{namespace}/{agent_name}",
        "spiffe://prod.example/{namespace}{agent_name}",
        "spiffe://{namespace}/{agent_name}",
        "spiffe://{agent_name}",
        "spiffe://prod.example/{tenant}/{agent_name}",
        "spiffe://prod.example/**/{agent_name}",
        "spiffe://PROD.example/{agent_name}",
        "https://prod.example/{agent_name}",
        "spiffe://prod.example/{agent_name}/",
        "spiffe://prod.example/(.*)/{agent_name}",
    ],
)
def test_a_rule_that_could_mean_several_things_is_refused(rule):
    with pytest.raises(ValueError, match=r"must hold|both places|not a SPIFFE id"):
        AgentRule(rule)
