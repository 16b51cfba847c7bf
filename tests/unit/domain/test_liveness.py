"""The rules of silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.agents import (
    LOST,
    STOPPED,
    Agent,
    AgentSpec,
    AgentStatus,
    Instance,
    InstanceState,
)
from controlplane.domain.liveness import (
    LivenessSettings,
    after_departure,
    after_silence,
    error_rate,
    is_stalled,
    next_state,
)
from controlplane.domain.mass_expiry import Allowance, MassExpiry, MassState

DEFAULTS = LivenessSettings()
SPEC = AgentSpec(name="a", version="1.0.0")
START = (0, 0, 0.0)

states = st.sampled_from(InstanceState)
grants = st.integers(1_000, 86_400_000)


def an_agent(status: AgentStatus = AgentStatus.ACTIVE, reason: str = "") -> Agent:
    return Agent(agent_id="a", spec=SPEC, status=status, status_reason=reason)


def an_instance(state: InstanceState) -> Instance:
    return Instance(instance_id="i", agent_id="a", state=state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval_ms": 20_000},
        {"interval_ms": 50},
        {"lost_after_ms": 30_000},
        {"suspect_after_missed": 0},
        {"mass_slow_share": 0.9, "mass_stop_share": 0.8},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        LivenessSettings(**wrong)


def test_the_original_thresholds_can_be_reproduced():
    settings = LivenessSettings(degraded_after_ms=300_000, lost_after_ms=600_000)
    assert settings.degraded_after(SPEC) == 300_000


def test_an_agent_may_have_thresholds_of_its_own():
    spec = AgentSpec(name="a", version="1.0.0", degraded_after_ms=1_000, lost_after_ms=5_000)
    assert DEFAULTS.deadline_after(InstanceState.FRESH, spec) == 1_000
    assert DEFAULTS.deadline_after(InstanceState.SILENT, spec) == 4_000
    assert DEFAULTS.deadline_after(InstanceState.STARTING, spec) == 5_000
    assert DEFAULTS.interval_for(1_000, 10) == 333


@given(degraded=st.none() | grants, lost=st.none() | grants, state=states)
def test_every_deadline_lies_ahead_whatever_the_overrides(degraded, lost, state):
    spec = AgentSpec(name="a", version="1.0.0", degraded_after_ms=degraded, lost_after_ms=lost)
    assert DEFAULTS.deadline_after(state, spec) > 0
    assert DEFAULTS.lost_after(spec) > DEFAULTS.degraded_after(spec)


@given(degraded=st.none() | grants, lost=st.none() | grants, state=states)
def test_a_passed_deadline_moves_an_instance_on_and_one_that_did_not_pass_never_does(
    degraded, lost, state
):
    spec = AgentSpec(name="a", version="1.0.0", degraded_after_ms=degraded, lost_after_ms=lost)
    at_deadline = DEFAULTS.silence_at_deadline(state, spec)
    instance = an_instance(state)
    assert next_state(instance, spec, DEFAULTS, silence_ms=at_deadline) is not state
    assert next_state(instance, spec, DEFAULTS, silence_ms=at_deadline - 1) is state


def test_silence_goes_step_by_step_however_long_it_lasted():
    forever = 10**12
    assert next_state(an_instance(InstanceState.FRESH), SPEC, DEFAULTS, silence_ms=forever) is (
        InstanceState.SILENT
    )
    assert next_state(an_instance(InstanceState.LOST), SPEC, DEFAULTS, silence_ms=forever) is None


def test_one_fresh_instance_keeps_an_agent_active():
    agent = an_agent()
    assert after_silence(agent, [InstanceState.FRESH, InstanceState.LOST]) is agent
    assert after_departure(agent, [InstanceState.FRESH]) is agent


def test_an_agent_is_degraded_while_an_instance_may_still_come():
    for hope in (InstanceState.SILENT, InstanceState.STARTING):
        assert after_silence(an_agent(), [hope, InstanceState.LOST]).status is AgentStatus.DEGRADED


def test_an_agent_whose_instances_are_all_lost_is_inactive():
    agent = after_silence(an_agent(AgentStatus.DEGRADED), [InstanceState.LOST])
    assert (agent.status, agent.status_reason) == (AgentStatus.INACTIVE, LOST)


def test_an_agent_left_by_its_last_instance_is_stopped():
    agent = after_departure(an_agent(), [InstanceState.SILENT])
    assert (agent.status, agent.status_reason) == (AgentStatus.INACTIVE, STOPPED)


@given(
    status=st.sampled_from(
        [AgentStatus.REGISTERED, AgentStatus.INACTIVE, AgentStatus.DECOMMISSIONED]
    ),
    left=st.lists(states),
)
def test_silence_says_nothing_about_agents_that_do_not_work(status, left):
    agent = an_agent(status, "operator")
    assert after_silence(agent, left) is agent
    assert after_departure(agent, left) is agent


@given(left=st.lists(states))
def test_an_agent_with_a_fresh_instance_is_never_worse_than_active(left):
    agent = after_silence(an_agent(), left)
    assert (agent.status is AgentStatus.ACTIVE) == (InstanceState.FRESH in left)


@pytest.mark.parametrize(
    ("in_flight", "token", "seconds", "stalled"),
    [(1, "t", 60, True), (1, "t", 59, False), (0, "t", 600, False), (1, "", 600, False)],
)
def test_work_stalls_when_its_token_stands_still(in_flight, token, seconds, stalled):
    assert stalled is is_stalled(
        in_flight=in_flight, token=token, since=0.0, now=float(seconds), settings=DEFAULTS
    )


def test_the_error_rate_forgets_what_is_older_than_the_window():
    rate, marks = error_rate((START, START), (0, 10, 1.0), DEFAULTS)
    assert rate == 1.0
    for second in range(10, 700, 10):
        rate, marks = error_rate(marks, (second, 10, float(second)), DEFAULTS)
    assert rate == 0.0


def test_counters_that_went_back_begin_anew():
    marks = ((100, 5, 1.0), (100, 5, 1.0))
    assert error_rate(marks, (0, 0, 2.0), DEFAULTS) == (0.0, ((0, 0, 2.0), (0, 0, 2.0)))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0.1, 300)), max_size=50)
)
def test_the_error_rate_is_a_share_and_covers_at_most_a_window_and_a_half(steps):
    completed = failed = 0
    now, marks = 0.0, (START, START)
    for more_completed, more_failed, pause in steps:
        completed, failed, now = completed + more_completed, failed + more_failed, now + pause
        rate, marks = error_rate(marks, (completed, failed, now), DEFAULTS)
        assert 0.0 <= rate <= 1.0
        assert marks[0][2] <= marks[1][2] <= now


def test_the_interval_is_stretched_for_large_fleets_but_never_beyond_the_grant():
    settings = LivenessSettings(degraded_after_ms=90_000, max_beats_per_second=1_000)
    assert settings.interval_for(90_000, 1_000) == 10_000
    assert settings.interval_for(90_000, 20_000) == 20_000
    assert settings.interval_for(90_000, 1_000_000) == 30_000


def test_expiry_slows_then_stops_then_recovers():
    mass = MassExpiry(DEFAULTS)
    assert mass.observe(silent=54, total=100, now=0.0) is MassState.CALM
    assert mass.rate(100) == DEFAULTS.sweep_rate
    assert mass.observe(silent=55, total=100, now=1.0) is MassState.SLOWED
    assert mass.rate(100) == 1.0
    assert mass.rate(100_000) == 100.0
    assert mass.observe(silent=100, total=100, now=2.0) is MassState.STOPPED
    assert mass.rate(100) == 0.0
    assert mass.observe(silent=20, total=100, now=3.0) is MassState.RECOVERING
    assert mass.rate(100) == 0.0
    assert mass.observe(silent=0, total=100, now=32.9) is MassState.RECOVERING
    assert mass.observe(silent=0, total=100, now=33.0) is MassState.CALM
    assert mass.alarms == 1


def test_a_share_that_trembles_does_not_switch_back_and_forth():
    mass = MassExpiry(DEFAULTS)
    mass.observe(silent=55, total=100, now=0.0)
    assert mass.observe(silent=46, total=100, now=1.0) is MassState.SLOWED
    assert mass.observe(silent=44, total=100, now=2.0) is MassState.CALM
    assert mass.observe(silent=54, total=100, now=3.0) is MassState.CALM


def test_the_silence_of_a_few_is_not_suspicious():
    mass = MassExpiry(DEFAULTS)
    assert mass.observe(silent=9, total=9, now=0.0) is MassState.CALM


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0.1, 60)), max_size=60))
def test_nobody_expires_at_full_rate_while_most_are_silent(censuses):
    mass, now = MassExpiry(DEFAULTS), 0.0
    for silent, pause in censuses:
        now += pause
        state = mass.observe(silent=silent, total=100, now=now)
        if silent == 100:
            assert state is MassState.STOPPED
        if silent >= 55:
            assert mass.rate(100) <= DEFAULTS.sweep_rate * DEFAULTS.slowed_factor


@given(
    rates=st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 1000.0)), min_size=1, max_size=50)
)
def test_an_allowance_never_gives_more_than_its_rate_and_one_second_of_savings(rates):
    allowance, now, taken, earned = Allowance(), 0.0, 0, 0.0
    for index, (pause, rate) in enumerate(rates):
        now += pause
        earned += rate * pause if index else rate
        count = allowance.refill(rate=rate, now=now)
        allowance.take(count)
        taken += count
        assert 0 <= count <= rate
    assert taken <= earned + 1e-6
