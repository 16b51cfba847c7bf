"""Laws of the history: any revision can be had again, and differences lead from one to another."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.policies import Effect, Policy, digest_of
from controlplane.domain.policy_sets.candidates import PolicyCandidate, PolicyStage, StageKind
from controlplane.domain.policy_sets.history import (
    ChangeKind,
    PolicyChange,
    PolicySnapshot,
    StoredDefaults,
    differences,
    rebuilt,
)

IDS = st.sampled_from([f"p{n}" for n in range(6)])
POLICIES = st.builds(
    Policy,
    policy_id=IDS,
    action=st.sampled_from(Effect),
    priority=st.integers(-2, 2),
    enabled=st.booleans(),
    match_all=st.just(True),
)
EDITS = st.lists(
    st.dictionaries(IDS, st.none() | POLICIES, min_size=1, max_size=3), min_size=1, max_size=12
)
SETS = st.dictionaries(IDS, POLICIES)


def keyed(policies: dict[str, Policy]) -> dict[str, Policy]:
    return {key: replace(policy, policy_id=key) for key, policy in policies.items()}


@settings(max_examples=200, deadline=None)
@given(EDITS, st.integers(0, 13))
def test_any_revision_is_rebuilt_from_the_present(
    edits: list[dict[str, Policy | None]], wanted: int
) -> None:
    states: list[dict[str, Policy]] = [{}]
    changes: list[PolicyChange] = []
    for revision, edit in enumerate(edits, 1):
        state = dict(states[-1])
        before = {key: state.get(key) for key in edit}
        for key, policy in edit.items():
            if policy is None:
                state.pop(key, None)
            else:
                state[key] = replace(policy, policy_id=key, revision=revision)
        states.append(state)
        changes.append(
            PolicyChange(
                kind=ChangeKind.UPDATED,
                before=before,
                after={key: state.get(key) for key in edit},
                defaults_before=StoredDefaults(),
                revision=revision,
            )
        )
    wanted = min(wanted, len(edits))
    found = rebuilt(PolicySnapshot(policies=states[-1]), reversed(changes), wanted)
    assert found.policies == states[wanted]


@settings(max_examples=200, deadline=None)
@given(SETS, SETS)
def test_differences_lead_from_one_set_to_the_other(
    one: dict[str, Policy], other: dict[str, Policy]
) -> None:
    before, after = keyed(one), keyed(other)
    found = differences(before, after)
    changed = dict(before)
    for difference in found:
        assert (difference.before is not None) or (difference.after is not None)
        if difference.after is None:
            del changed[difference.policy_id]
        else:
            changed[difference.policy_id] = difference.after
    assert digest_of(changed.values()) == digest_of(after.values())
    assert not differences(after, after)
    back = differences(after, before)
    assert [(d.policy_id, d.after, d.before) for d in found] == [
        (d.policy_id, d.before, d.after) for d in back
    ]


@settings(max_examples=200, deadline=None)
@given(SETS, SETS, SETS)
def test_a_candidate_changes_what_it_names_and_nothing_else(
    base: dict[str, Policy], wanted: dict[str, Policy], present: dict[str, Policy]
) -> None:
    base, wanted, present = keyed(base), keyed(wanted), keyed(present)
    found = differences(base, wanted)
    candidate = PolicyCandidate(
        candidate_id="c",
        put=tuple(d.after for d in found if d.after is not None),
        delete=tuple(d.policy_id for d in found if d.after is None),
    )
    assert digest_of(candidate.applied_to(base).values()) == digest_of(wanted.values())
    named = {d.policy_id for d in found}
    after = candidate.applied_to(present)
    assert {k: v for k, v in after.items() if k not in named} == {
        k: v for k, v in present.items() if k not in named
    }
    assert not candidate.changes_to(after)


@given(st.text(max_size=30), st.integers(1, 98), st.integers(1, 98))
def test_a_growing_stage_keeps_whom_it_had(agent_id: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    stage = PolicyStage(stage_id="pst-1", kind=StageKind.PERCENT, candidate_id="c", percent=low)
    if stage.decides_for(agent_id):
        assert replace(stage, percent=high).decides_for(agent_id)


def test_a_stage_of_ten_percent_has_about_a_tenth_of_the_agents() -> None:
    stage = PolicyStage(stage_id="pst-1", kind=StageKind.PERCENT, candidate_id="c", percent=10)
    chosen = sum(stage.decides_for(f"agt-{n}") for n in range(10_000))
    assert 900 < chosen < 1_100
    assert not replace(stage, kind=StageKind.SHADOW).decides_for("agt-1")
