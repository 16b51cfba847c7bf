"""The machine and the words of operators, over states that hypothesis makes up."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase
from controlplane.domain.errors import InvalidTransition
from controlplane.domain.rollouts import operations
from controlplane.domain.rollouts.machine import (
    SUCCESSORS,
    next_transition,
    phase_deadline_ms,
    step_may_pass_at_ms,
)
from controlplane.domain.rollouts.model import (
    NO_COUNTS,
    Analysis,
    AnalysisKind,
    Counts,
    OnInconclusive,
    PauseReason,
    Phase,
    Plan,
    Rollout,
    Step,
    Verdict,
)
from controlplane.domain.rollouts.observed import Approval, Observed, Version
from controlplane.domain.rollouts.shares import route_of
from controlplane.domain.rollouts.transitions import Effect, Transition, TransitionName

START_MS = 1_700_000_000_000
PENDING = Rollout(
    rollout_id="rol-1",
    name="writer",
    from_version="1.0.0",
    to_version="2.0.0",
    from_agent_id="old",
    to_agent_id="new",
    phase_since_ms=START_MS,
    updated_at_ms=START_MS,
)
ACTIVE = Version(status=AgentStatus.ACTIVE, fresh=3, slots=1_000)
ALL_WELL = Observed(canary=ACTIVE, stable=ACTIVE)

counts = st.builds(
    lambda total, failed: Counts(total=total, failed=min(failed, total)),
    st.sampled_from([0, 0, 3, 60, 1_000]),
    st.sampled_from([0, 0, 2, 50, 1_000]),
)
nonsense = st.just(Counts(total=1, failed=2))
versions = st.none() | st.builds(
    Version,
    status=st.sampled_from([AgentStatus.ACTIVE] * 4 + list(AgentStatus)),
    stopped=st.sampled_from([False, False, False, True]),
    draining=st.sampled_from([False, False, False, True]),
    fresh=st.integers(0, 3),
    silent=st.integers(0, 3),
    slots=st.sampled_from([0, 10, 1_000]),
)
plans = st.builds(
    Plan,
    steps=st.lists(
        st.builds(Step, weight_bp=st.integers(1, 9_999), pause_after=st.booleans()), max_size=3
    ).map(
        lambda steps: (
            *sorted(steps, key=lambda one: one.weight_bp),
            Step(weight_bp=10_000, pause_after=bool(steps) and steps[0].pause_after),
        )
    ),
    analysis=st.builds(Analysis, kind=st.sampled_from(AnalysisKind), min_tasks=st.just(50)),
    bake_ms=st.sampled_from([0, 60_000]),
    on_inconclusive=st.sampled_from(OnInconclusive),
    evict_on_abort=st.booleans(),
)


def observations(outcomes=counts):
    return st.builds(
        Observed,
        canary=versions,
        stable=versions,
        canary_counts=outcomes,
        stable_counts=counts,
        traffic=st.booleans(),
        baseline=counts,
        demand=st.sampled_from([0, 0, 5, 100]),
        approval=st.sampled_from(Approval),
        approval_parked=st.booleans(),
        drain=st.none() | st.sampled_from(DrainPhase),
        pinned_work=st.booleans(),
        mass_silence=st.sampled_from([False, False, False, True]),
    )


words = st.sampled_from(["", "", "", "", "pause", "resume", "promote", "full", "abort"])
pauses = st.sampled_from([1, 500, 2_500, 61_000, 600_000, 30_000_000, 90_000_000])


def said(rollout: Rollout, word: str, seen: Observed, now_ms: int) -> Transition | None:
    """Return what an operator's word does; nothing if it is refused."""
    try:
        match word:
            case "pause":
                return operations.paused(rollout, now_ms, reason="", by="ada")
            case "resume":
                return operations.resumed(rollout, now_ms)
            case "abort":
                return operations.aborted(rollout, now_ms, reason="", stable=seen.stable)
            case "promote" | "full":
                full = word == "full"
                return operations.promoted(rollout, now_ms, full=full, expected_step_index=None)
    except InvalidTransition:
        pass
    return None


def walk(plan: Plan, moves) -> list[tuple[Rollout, Transition, str]]:
    """Return what happens to a rollout, as (before, transition, word of an operator)."""
    rollout, now_ms, happened = replace(PENDING, plan=plan), START_MS, []
    for seen, word, pause_ms in moves:
        now_ms += pause_ms
        transition = (
            said(rollout, word, seen, now_ms) if word else next_transition(rollout, seen, now_ms)
        )
        if transition is not None:
            happened.append((rollout, transition, word))
            rollout = replace(transition.after, updated_at_ms=now_ms)
    return happened


@settings(max_examples=400, deadline=None)
@given(plans, st.lists(st.tuples(observations(), words, pauses), max_size=30))
def test_only_documented_transitions_happen_and_every_record_is_sound(plan, moves):
    for before, transition, _ in walk(plan, moves):
        after = transition.after
        assert after.phase is before.phase or after.phase in SUCCESSORS[before.phase]
        assert not before.phase.is_terminal
        assert 0 <= after.step_index < len(plan.steps)
        assert (after.phase is Phase.PAUSED) == (after.pause is not None)
        assert (Effect.END in transition.effects) == after.phase.is_terminal
        assert bool(after.ended_at_ms) == after.phase.is_terminal
        assert after.step_token >= before.step_token
        assert after.step_index in {before.step_index, before.step_index + 1, len(plan.steps) - 1}
        assert sum(share.weight_bp for share in route_of(after).shares) == 10_000
        if after.weight_bp != before.weight_bp and after.phase is not Phase.SUPERSEDED:
            assert Effect.ROUTE in transition.effects
        assert phase_deadline_ms(after) > 0 or after.phase.is_terminal


@settings(max_examples=300, deadline=None)
@given(
    plans, st.lists(st.tuples(observations(st.just(NO_COUNTS)), st.just(""), pauses), max_size=30)
)
def test_no_data_never_promotes(plan, moves):
    for _, transition, _ in walk(plan, moves):
        after = transition.after
        assert transition.name not in {TransitionName.PROMOTE, TransitionName.PASS_STEP}
        assert after.weight_bp <= plan.steps[0].weight_bp


@settings(max_examples=200, deadline=None)
@given(plans, st.lists(st.tuples(observations(nonsense), st.just(""), pauses), max_size=30))
def test_outcomes_that_make_no_sense_never_pass_and_never_roll_back(plan, moves):
    for before, transition, _ in walk(plan, moves):
        assert transition.name is not TransitionName.PASS_STEP
        looks = transition.after.measurements
        assert not looks or looks[-1].verdict is Verdict.ERROR
        assert transition.after.canary == NO_COUNTS
        assert before.errors_in_a_row <= 5


@given(st.sampled_from([one for one in Phase if one.is_terminal]), observations(), words, pauses)
def test_what_has_ended_never_changes(phase, seen, word, pause_ms):
    ended = replace(PENDING, phase=phase, ended_at_ms=START_MS)
    assert next_transition(ended, seen, START_MS + pause_ms) is None
    assert said(ended, word, seen, START_MS + pause_ms) is None


@settings(max_examples=200, deadline=None)
@given(plans, st.lists(st.tuples(observations(), words, pauses), max_size=30))
def test_while_the_fleet_is_silent_only_operators_move_what_serves(plan, moves):
    moves = [(replace(seen, mass_silence=True), word, pause) for seen, word, pause in moves]
    serving = {Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING}
    for before, transition, word in walk(plan, moves):
        if not word and before.phase in serving and not before.promote_requested:
            stops = {TransitionName.HOLD, TransitionName.FAIL, TransitionName.ABORT}
            assert transition.name in stops


@pytest.mark.parametrize("phase", [one for one in Phase if not one.is_terminal])
def test_the_same_question_has_the_same_answer(phase):
    rollout = replace(PENDING, phase=phase)
    if phase in {Phase.PROGRESSING, Phase.PROMOTING}:
        entered = next_transition(PENDING, ALL_WELL, START_MS)
        assert entered is not None
        rollout = replace(entered.after, phase=phase)
    first = next_transition(rollout, ALL_WELL, START_MS)
    assert next_transition(rollout, ALL_WELL, START_MS) == first


def test_the_fifth_failed_look_in_a_row_pauses_and_a_good_one_starts_over():
    entered = next_transition(PENDING, ALL_WELL, START_MS)
    assert entered is not None
    rollout, now_ms = entered.after, START_MS
    bad = replace(ALL_WELL, canary_counts=Counts(total=1, failed=2))
    for _ in range(4):
        now_ms += 2_000
        looked = next_transition(rollout, bad, now_ms)
        assert looked is not None
        rollout = replace(looked.after, updated_at_ms=now_ms)
    good = next_transition(rollout, ALL_WELL, now_ms + 2_000)
    assert good is not None
    assert good.after.errors_in_a_row == 0
    paused = next_transition(rollout, bad, now_ms + 2_000)
    assert paused is not None
    assert paused.after.pause is not None
    assert paused.after.pause.reason is PauseReason.METRICS


def test_the_observation_counts_from_the_first_work_and_not_from_the_entry():
    entered = next_transition(PENDING, ALL_WELL, START_MS)
    assert entered is not None
    assert step_may_pass_at_ms(entered.after) == 0
    working = replace(ALL_WELL, traffic=True, canary_counts=Counts(total=1_000))
    noted = next_transition(entered.after, working, START_MS + 100_000)
    assert noted is not None
    assert noted.name is TransitionName.NOTE_TRAFFIC
    may_pass = step_may_pass_at_ms(noted.after)
    assert may_pass == START_MS + 100_000 + PENDING.plan.observe_ms
    early = next_transition(noted.after, working, may_pass - 1)
    assert early is not None
    assert early.name is TransitionName.MEASURE
    passed = next_transition(noted.after, working, may_pass)
    assert passed is not None
    assert passed.name is TransitionName.PASS_STEP
