"""Who is dealt what: the vectors of the contract, and what holds for every unit."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.experiments.dealing import (
    INCLUSION,
    VARIANT,
    deal,
    is_for,
    own_variant,
    salt_of,
)
from controlplane.domain.experiments.model import (
    AssignmentReason,
    Experiment,
    ExperimentState,
    Metric,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    UnitKind,
    Variant,
)
from controlplane.domain.experiments.statistics import ratio_p_value
from controlplane.domain.routes import bucket

A = Variant(name="a", weight_bp=5_000, control=True, prompt_version=1)
B = Variant(name="b", weight_bp=5_000, prompt_version=2)


def phase(coverage_bp: int = 10_000, *variants: Variant, number: int = 1) -> Phase:
    return Phase(
        number=number, variants=variants or (A, B), coverage_bp=coverage_bp, started_at_ms=0
    )


def experiment(**fields) -> Experiment:
    stated: dict[str, Any] = {
        "key": "greeting",
        "subject": Subject(kind=SubjectKind.PROMPT, name="greeting"),
        "plan": Plan(primary=Metric(name="solved")),
        "variants": (A, B),
        "state": ExperimentState.RUNNING,
        "phases": (phase(),),
    }
    return Experiment(**(stated | fields))


def test_buckets_are_those_of_the_contract():
    for salt, unit, expected in (
        ("exp:greeting:1", "session-1", 905),
        ("exp:greeting:1", "session-2", 3811),
        ("exp:greeting:1", "ünïcode-✓", 3389),
        ("rollout:agent-a:7", "session-1", 2730),
        ("", "session-1", 5508),
        ("exp:greeting:1", "", 8346),
    ):
        assert bucket(salt, unit) == expected


def test_salts_name_the_experiment_the_phase_and_the_purpose():
    assert salt_of("greeting", 3, INCLUSION) == "exp:greeting:3:in"
    assert salt_of("greeting", 3, VARIANT) == "exp:greeting:3:var"


@given(
    unit=st.text(max_size=40),
    weights=st.lists(st.integers(1, 1_000), min_size=2, max_size=10),
    steps=st.lists(st.integers(0, 10_000), min_size=2, max_size=8),
)
def test_more_coverage_takes_no_variant_away_and_changes_none(unit, weights, steps):
    total = sum(weights)
    cut = [weight * 10_000 // total for weight in weights]
    cut[-1] += 10_000 - sum(cut)
    variants = tuple(Variant(name=f"v{i}", weight_bp=w, control=not i) for i, w in enumerate(cut))
    seen = [own_variant("ramp", phase(bp, *variants), unit) for bp in sorted(steps)]
    for before, after in pairwise(seen):
        assert before is None or after is before


def test_weights_are_kept_whatever_the_coverage():
    variants = (
        Variant(name="a", weight_bp=2_000, control=True),
        Variant(name="b", weight_bp=3_000),
        Variant(name="c", weight_bp=5_000),
    )
    for coverage in (500, 3_000, 10_000):
        seen = Counter(
            found.name
            for i in range(20_000)
            if (found := own_variant("shares", phase(coverage, *variants), f"s-{i}"))
        )
        assert sum(seen.values()) / 20_000 * 10_000 == pytest.approx(coverage, rel=0.1)
        assert ratio_p_value((seen["a"], seen["b"], seen["c"]), (2, 3, 5)) > 0.001


def test_whether_a_unit_is_covered_says_nothing_about_its_variant():
    """One shared hash would leave a tenth of the variants at a tenth of the coverage."""
    tenths = Counter(
        bucket(salt_of("cross", 1, VARIANT), f"s-{i}") // 1_000
        for i in range(40_000)
        if bucket(salt_of("cross", 1, INCLUSION), f"s-{i}") < 1_000
    )
    assert len(tenths) == 10
    assert ratio_p_value(tuple(tenths[i] for i in range(10)), (1,) * 10) > 0.001


def test_another_phase_deals_anew():
    first, second = phase(), phase(number=2)
    units = [f"s-{i}" for i in range(2_000)]
    moved = sum(own_variant("p", first, u) is not own_variant("p", second, u) for u in units)
    assert 800 < moved < 1_200


def name_of(running: Experiment, agent_name: str, unit: str) -> str:
    variant = deal(running, agent_name=agent_name, unit=unit).variant
    return variant.name if variant is not None else ""


def test_the_same_unit_gets_the_same_variant_every_time():
    running = experiment()
    answers = {name_of(running, "", "session-1") for _ in range(1_000)}
    assert len(answers) == 1


def test_without_a_unit_it_is_the_control_and_counts_for_nothing():
    dealt = deal(experiment(), agent_name="writer", unit="")
    assert (dealt.reason, dealt.variant) == (AssignmentReason.NO_UNIT, A)
    assert not dealt.in_experiment


def test_dealt_by_agent_all_its_sessions_see_one_variant():
    running = experiment(unit=UnitKind.AGENT)
    seen = {name_of(running, "writer", f"s-{i}") for i in range(50)}
    assert len(seen) == 1
    assert deal(running, agent_name="", unit="s-1").reason is AssignmentReason.NO_UNIT


def test_who_it_is_not_for_sees_nothing_of_it():
    running = experiment(agents=("write*", "reader"))
    assert is_for(running, "writer")
    assert not is_for(running, "reader-2")
    dealt = deal(running, agent_name="other", unit="s-1")
    assert (dealt.reason, dealt.variant) == (AssignmentReason.NOT_COVERED, None)


def test_nothing_is_dealt_unless_it_runs():
    for state, phases in ((ExperimentState.DRAFT, ()), (ExperimentState.STOPPED, (phase(),))):
        dealt = deal(experiment(state=state, phases=phases), agent_name="", unit="s-1")
        assert (dealt.reason, dealt.variant) == (AssignmentReason.NOT_RUNNING, None)


def test_beyond_the_coverage_there_is_no_variant():
    dealt = deal(experiment(phases=(phase(0),)), agent_name="", unit="s-1")
    assert (dealt.reason, dealt.variant) == (AssignmentReason.NOT_COVERED, None)
