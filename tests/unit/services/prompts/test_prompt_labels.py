import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidArgument, LimitExceeded, RevisionConflict
from controlplane.domain.prompts.comparison import Verdict
from controlplane.domain.prompts.labels import MAX_LABELS, movable
from controlplane.domain.prompts.refusals import (
    EvaluationNotFound,
    GateBlocked,
    LabelNotFound,
    PromptNotFound,
    PromptVersionNotFound,
)
from controlplane.services.prompts.evaluations import Choice
from controlplane.services.prompts.labels import Move
from tests.fakes.plane import NS
from tests.fakes.prompt_world import ADA, DATASET, PROMPT, PromptWorld, items

GOOD, BAD = items(*[0.9] * 60), items(*[0.5] * 60)


@pytest.fixture
async def world() -> PromptWorld:
    made = PromptWorld()
    await made.follow()
    for said in ("one", "two", "three"):
        await made.write(said)
    return made


async def history(world: PromptWorld) -> list[tuple[str, int, int]]:
    moves, _ = await world.labels.history(NS, PROMPT, label="", before=None, limit=100)
    return [(one.label, one.from_version, one.to_version) for one in moves]


async def events(world: PromptWorld) -> list[str]:
    return [entry.event for _, _, entry in await world.plane.ledger.read_audit(NS)]


async def test_a_label_moves_and_every_move_is_kept(world):
    first = await world.move(1)
    assert (first.previous_version, first.changed, first.label.version) == (0, True, 1)
    assert first.label.revision == world.prompt.revision
    await world.move(3, reason="better")
    await world.move(1, reason="worse after all")
    assert await history(world) == [
        ("production", 3, 1),
        ("production", 1, 3),
        ("production", 0, 1),
    ]
    moves, _ = await world.labels.history(NS, PROMPT, label="production", before=None, limit=1)
    assert (moves[0].moved_by, moves[0].reason) == ("ada", "worse after all")


async def test_moving_to_where_it_is_changes_nothing(world):
    before = (await world.move(2)).label
    again = await world.move(2, reason="again")
    assert not again.changed
    assert again.label == before
    assert len(await history(world)) == 1


async def test_a_label_keeps_its_revision_when_something_else_changes(world):
    moved = await world.move(1)
    await world.move(2, "staging")
    await world.write("four")
    await world.give("writer", "staging")
    assert world.prompt.label("production") == moved.label


async def test_a_stale_mover_is_refused(world):
    moved = await world.move(1, expected_revision=0)
    with pytest.raises(RevisionConflict):
        await world.move(2, expected_revision=0)
    await world.move(2, "staging")  # does not concern the other label
    await world.move(2, expected_revision=moved.label.revision)
    with pytest.raises(RevisionConflict):
        await world.move(3, expected_revision=moved.label.revision)


async def test_of_two_movers_who_saw_the_same_one_wins():
    """Pitfall: last writer wins, and the history lies."""
    one = PromptWorld()
    await one.follow()
    for said in ("one", "two", "three"):
        await one.write(said)
    seen = (await one.move(1)).label.revision
    other = one.beside()
    await other.follow()

    def to(version: int) -> Move:
        return Move(
            prompt=PROMPT, label="production", version=version, reason="r", expected_revision=seen
        )

    outcomes = await asyncio.gather(
        one.labels.move(NS, to(2), request=None, caller=ADA),
        other.labels.move(NS, to(3), request=None, caller=ADA),
        return_exceptions=True,
    )
    await one.follow()
    assert sum(isinstance(outcome, RevisionConflict) for outcome in outcomes) == 1
    assert len(await history(one)) == 2
    assert (await history(one))[0][1:] == (1, one.prompt.labels["production"].version)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["production", "staging"]), st.integers(0, 3)), max_size=12)
)
async def test_the_history_only_grows_and_ends_where_the_labels_are(moves):
    world = PromptWorld()
    await world.follow()
    for said in ("one", "two", "three"):
        await world.write(said)
    known: list[tuple[str, int, int]] = []
    for label, version in moves:
        if version:
            await world.move(version, label)
        elif label in world.prompt.labels:
            await world.remove(label)
        now = await history(world)
        assert now[len(now) - len(known) :] == known
        known = now
    for label in ("production", "staging"):
        last = next((to for name, _, to in known if name == label), 0)
        held = world.prompt.label(label)
        assert (held.version if held is not None else 0) == last


async def test_latest_is_where_the_newest_version_is_and_cannot_be_moved(world):
    latest = world.prompt.label("latest")
    assert latest is not None
    assert latest.version == 3
    with pytest.raises(InvalidArgument, match="newest"):
        movable("latest")
    assert movable("") == "production"


@pytest.mark.parametrize("label", ["Production", "1a", "a b", "ä", "a" * 65, "-a"])
def test_malformed_labels_are_refused(label):
    with pytest.raises(InvalidArgument):
        movable(label)


async def test_what_is_not_there_cannot_be_moved(world):
    with pytest.raises(PromptVersionNotFound):
        await world.move(4)
    with pytest.raises(LabelNotFound):
        await world.remove("staging")
    with pytest.raises(PromptNotFound):
        await world.labels.move(
            NS, Move(prompt="nobody", label="a", version=1, reason="r"), request=None, caller=ADA
        )


async def test_a_prompt_has_so_many_labels(world):
    for number in range(MAX_LABELS):
        await world.move(1, f"l{number}")
    with pytest.raises(LimitExceeded):
        await world.move(1, "one-more")
    await world.move(2, "l0")


async def test_a_gated_label_moves_on_a_pass_only(world):
    await world.move(1)
    await world.gate()
    with pytest.raises(GateBlocked, match="version 2 was not evaluated"):
        await world.move(2)
    await world.evaluate(2, GOOD)
    with pytest.raises(GateBlocked, match="version 1, where the label is, was not evaluated"):
        await world.move(2)
    await world.evaluate(1, GOOD)
    moved = await world.move(2)
    assert moved.comparison is not None
    assert moved.comparison.verdict is Verdict.PASS
    assert not moved.overridden


async def test_a_regression_blocks_until_somebody_overrides_it_and_says_why(world):
    await world.move(1)
    await world.gate()
    await world.evaluate(1, GOOD)
    await world.evaluate(2, BAD)
    with pytest.raises(GateBlocked) as caught:
        await world.move(2)
    assert caught.value.metadata["verdict"] == "REGRESSION"
    moved = await world.move(2, override_reason="the data set is wrong, see ticket 7")
    assert moved.overridden
    assert (await events(world))[-1] == "prompt.gate_overridden"
    _, _, entry = (await world.plane.ledger.read_audit(NS))[-1]
    assert entry.details["override_reason"] == "the data set is wrong, see ticket 7"
    moves, _ = await world.labels.history(NS, PROMPT, label="", before=None, limit=1)
    assert (moves[0].verdict, moves[0].override_reason) == (
        "REGRESSION",
        "the data set is wrong, see ticket 7",
    )


async def test_an_override_that_is_not_needed_is_none(world):
    await world.gate()
    await world.evaluate(1, GOOD)
    moved = await world.move(1, override_reason="just in case")
    assert not moved.overridden
    assert (await events(world))[-1] == "prompt.label_moved"


async def test_eight_items_do_not_pass_the_gate(world):
    await world.move(1)
    await world.gate()
    await world.evaluate(1, items(*[0.8] * 8))
    await world.evaluate(2, items(*[0.83] * 8))
    with pytest.raises(GateBlocked) as caught:
        await world.move(2)
    assert caught.value.metadata["verdict"] == "INSUFFICIENT"


async def test_an_evaluation_on_another_data_set_does_not_count(world):
    await world.move(1)
    await world.gate()
    await world.evaluate(1, GOOD)
    await world.evaluate(2, GOOD, dataset_sha256="sha256:" + "b" * 64)
    with pytest.raises(GateBlocked, match="version 2 was not evaluated"):
        await world.move(2)


async def test_removing_a_gated_label_does_not_lose_what_it_is_compared_with(world):
    await world.move(1)
    await world.gate()
    await world.evaluate(1, GOOD)
    await world.evaluate(2, BAD)
    await world.remove()
    assert world.prompt.gates["production"].baseline_version == 1
    with pytest.raises(GateBlocked):
        await world.move(2)


async def test_a_gate_that_is_removed_holds_nobody(world):
    await world.gate()
    await world.gate(None)
    await world.move(2)
    assert "prompt.gate_removed" in await events(world)


async def test_versions_are_compared_without_a_gate_and_by_label(world):
    await world.move(1)
    await world.evaluate(1, GOOD)
    with pytest.raises(EvaluationNotFound):
        await world.evaluations.compare(
            NS, PROMPT, Choice(candidate_version=2, baseline_label="production")
        )
    await world.evaluate(2, BAD)
    found = await world.evaluations.compare(
        NS, PROMPT, Choice(candidate_version=2, baseline_label="production")
    )
    assert found.verdict is Verdict.REGRESSION
    assert (found.candidate_version, found.baseline_version) == (2, 1)
    assert found.dataset_sha256 == DATASET


async def test_old_evaluations_go_but_not_those_that_labels_need():
    world = PromptWorld(kept=3)
    await world.follow()
    await world.write("one")
    await world.write("two")
    await world.move(1)
    needed = await world.evaluate(1, GOOD)
    for _ in range(5):
        await world.evaluate(2, GOOD)
    page = await world.evaluations.page(
        NS, PROMPT, version=0, dataset_sha256="", before=None, limit=100, min_revision=0
    )
    assert len(page.evaluations) == 4
    assert page.evaluations[-1].evaluation_id == needed.evaluation_id
    assert needed.mean_score == pytest.approx(0.9)
