"""The check between a first beat and ACTIVE."""

from typing import Any

import pytest

from controlplane.domain.agents import Agent, AgentSpec
from controlplane.domain.configs import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.policies import Effect, Policy
from controlplane.services.lifecycle.activation import (
    RECHECK_CHANGED_SECONDS,
    RECHECK_SECONDS,
    ActivationVerdict,
    PolicyActivation,
    RememberedRefusals,
    config_claims,
    effective_config,
)
from controlplane.services.ports import Collection, Position, Record, Touched
from controlplane.services.read_model import NamespaceView
from tests.fakes.clock import FakeClock

AGENT = Agent(agent_id="a", spec=AgentSpec(name="bot", version="1.0.0", tags={"tier": "gold"}))


class World:
    def __init__(self) -> None:
        self.view = NamespaceView("default")
        self.revision = 0

    def put(self, collection: Collection, key: str, value: Any) -> None:
        self.revision += 1
        record = Record(key, value, self.revision, self.revision, 1, 1)
        self.view.apply([Touched(collection, key, record)], Position("e", self.revision))

    def set_config(self, **values: Any) -> None:
        scope = LayerScope(LayerKind.AGENT_NAME, "bot")
        layer = ConfigLayer(scope=scope, values=values, revision=self.revision + 1)
        self.put(Collection.CONFIG_LAYERS, scope.key, layer)

    def set_policy(self, effect: Effect, **conditions: Any) -> None:
        policy = Policy(
            policy_id="p", action=effect, conditions={"action": "activate"} | conditions
        )
        self.put(Collection.POLICIES, "p", policy)


class CountingCheck:
    def __init__(self, *, allowed: bool = False) -> None:
        self.asked = 0
        self.allowed = allowed

    def may_activate(self, _view: NamespaceView, _agent: Agent) -> ActivationVerdict:
        self.asked += 1
        return ActivationVerdict(allowed=self.allowed, decision="DENY", detail="no")


@pytest.fixture
def world():
    return World()


def judge(world: World) -> ActivationVerdict:
    return PolicyActivation(FakeClock()).may_activate(world.view, AGENT)


def test_an_agent_without_policies_may_be_activated(world):
    verdict = judge(world)
    assert (verdict.allowed, verdict.detail) == (True, "")


@pytest.mark.parametrize("effect", [Effect.DENY, Effect.REQUIRE_APPROVAL])
def test_a_policy_refuses_with_its_name(world, effect):
    world.set_policy(effect)
    verdict = judge(world)
    assert not verdict.allowed
    assert (verdict.decision, verdict.policies) == (str(effect), ("p",))
    assert verdict.detail == f"activation was answered {effect} by p"


def test_the_configuration_is_the_context(world):
    world.set_policy(Effect.DENY, model="forbidden-model")
    assert judge(world).allowed
    world.set_config(model="forbidden-model")
    assert not judge(world).allowed


def test_the_record_is_the_fact(world):
    world.set_policy(Effect.DENY, agent_tags={"tier": "gold"})
    assert not judge(world).allowed


def test_claims_hold_every_setting(world):
    world.set_config(**{"max_tokens": 100, "features.search": True, "allowed_domains": ["x.org"]})
    claims = config_claims(effective_config(world.view, AGENT))
    assert claims["max_tokens"] == 100
    assert claims["features"] == {"search": True}
    assert claims["allowed_domains"] == ["x.org"]
    assert claims["blocked_tools"] == []


def test_a_refusal_stands_for_a_while_and_is_judged_anew_when_something_changed(world):
    clock, check = FakeClock(), CountingCheck()
    refusals = RememberedRefusals(check, clock)
    for _ in range(3):
        assert refusals.may_activate(world.view, AGENT).detail == "no"
    assert check.asked == 1
    world.set_policy(Effect.DENY)
    refusals.may_activate(world.view, AGENT)
    assert check.asked == 1
    clock.shift(RECHECK_CHANGED_SECONDS)
    refusals.may_activate(world.view, AGENT)
    assert check.asked == 2
    clock.shift(RECHECK_CHANGED_SECONDS)
    refusals.may_activate(world.view, AGENT)
    assert check.asked == 2
    clock.shift(RECHECK_SECONDS)
    refusals.may_activate(world.view, AGENT)
    assert check.asked == 3


def test_a_permission_is_not_remembered(world):
    check = CountingCheck(allowed=True)
    refusals = RememberedRefusals(check, FakeClock())
    refusals.may_activate(world.view, AGENT)
    refusals.may_activate(world.view, AGENT)
    assert check.asked == 2
