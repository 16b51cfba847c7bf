"""What every `Ledger` promises."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.configs.extra_schema import ExtraSchema
from controlplane.domain.configs.layers import ConfigLayer, LayerKind, LayerScope
from controlplane.domain.errors import RequestIdReused
from controlplane.services.ports import (
    ABSENT,
    Append,
    ClearDeadline,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Put,
    RequestKey,
    Require,
    RequireExpired,
    SetDeadline,
    Step,
)
from fleetplane_policy.model import Effect, Policy
from tests.fakes.store_world import World
from tests.fakes.transactions import NS, agent, instance, put_name, transaction


async def read_name(world: World, key: str, namespace: str = NS) -> Any:
    (record,) = await world.ledger.read(namespace, Collection.NAMES, [key])
    return record


class TestCommit:
    async def test_revisions_count_from_one_per_namespace(self, world):
        for revision in (1, 2, 3):
            committed = await world.ledger.commit(transaction(put_name(f"k{revision}")))
            assert committed.revision == revision
            assert not committed.replayed
        other = await world.ledger.commit(transaction(put_name("k"), namespace="team-b"))
        assert other.revision == 1

    async def test_a_put_record_is_read_back_with_its_numbers(self, world):
        committed = await world.ledger.commit(transaction(put_name("k", "v")))
        record = await read_name(world, "k")
        assert (record.key, record.value) == ("k", "v")
        assert (record.revision, record.generation) == (1, 1)
        assert record.updated_at_ms == record.created_at_ms == committed.at_ms

    async def test_a_second_put_keeps_generation_and_creation_time(self, world):
        first = await world.ledger.commit(transaction(put_name("k", "v")))
        await world.pass_ms(5)
        second = await world.ledger.commit(transaction(put_name("k", "w")))
        record = await read_name(world, "k")
        assert (record.value, record.revision, record.generation) == ("w", 2, 1)
        assert record.created_at_ms == first.at_ms
        assert record.updated_at_ms == second.at_ms > first.at_ms

    async def test_a_fresh_generation_is_the_revision_of_its_commit(self, world):
        await world.ledger.commit(transaction(put_name("k")))
        await world.ledger.commit(transaction(put_name("k", fresh=True)))
        record = await read_name(world, "k")
        assert (record.revision, record.generation) == (2, 2)
        assert record.created_at_ms == record.updated_at_ms
        await world.ledger.commit(transaction(put_name("k")))
        record = await read_name(world, "k")
        assert (record.revision, record.generation) == (3, 2)

    async def test_a_record_made_again_after_its_removal_is_a_new_generation(self, world):
        await world.ledger.commit(transaction(put_name("k")))
        await world.ledger.commit(transaction(Delete(Collection.NAMES, "k")))
        assert await read_name(world, "k") is None
        await world.ledger.commit(transaction(put_name("k")))
        record = await read_name(world, "k")
        assert (record.revision, record.generation) == (3, 3)

    async def test_steps_take_effect_in_their_order(self, world):
        await world.ledger.commit(transaction(put_name("k", "old")))
        await world.ledger.commit(
            transaction(
                put_name("k", "lost"),
                Delete(Collection.NAMES, "k"),
                put_name("k", "new"),
                put_name("gone"),
                Delete(Collection.NAMES, "gone"),
            )
        )
        record = await read_name(world, "k")
        assert (record.value, record.revision, record.generation) == ("new", 2, 2)
        assert await read_name(world, "gone") is None

    async def test_removing_what_is_not_there_is_no_failure(self, world):
        committed = await world.ledger.commit(transaction(Delete(Collection.NAMES, "k")))
        assert committed.revision == 1

    async def test_the_answer_of_a_commit_is_given_back(self, world):
        committed = await world.ledger.commit(transaction(put_name("k"), answer="agt-1"))
        assert committed.answer == "agt-1"

    async def test_values_of_every_collection_survive_with_the_stores_numbers(self, world):
        layer = ConfigLayer(
            scope=LayerScope(LayerKind.AGENT_NAME, "writer"),
            values={"temperature": 0.5, "tools": ["a", "b"], "extra": {}, "nothing": None},
            author="alice",
            may_widen=frozenset({"tools"}),
        )
        policy = Policy(policy_id="p", action=Effect.DENY, conditions={"a": {"in": [1, 2**62]}})
        schema = ExtraSchema(document={"enum": [None, {"a": 1.5}], "$defs": {}}, author="alice")
        writer = agent("a", tags={"team": "ä"}, capabilities=("x", "y"))
        committed = await world.ledger.commit(
            transaction(
                Put(Collection.AGENTS, "a", writer),
                Put(Collection.INSTANCES, "i", instance("i")),
                Put(Collection.CONFIG_LAYERS, layer.scope.key, layer),
                Put(Collection.POLICIES, "p", policy),
                Put(Collection.CONFIG_SCHEMAS, "extra", schema),
            )
        )
        (stored,) = await world.ledger.read(NS, Collection.AGENTS, ["a"])
        assert stored.value.spec == writer.spec
        assert stored.value.status is AgentStatus.REGISTERED
        assert stored.value.revision == 1
        assert stored.value.registered_at_ms == stored.value.updated_at_ms == committed.at_ms
        (stored,) = await world.ledger.read(NS, Collection.INSTANCES, ["i"])
        assert (stored.value.generation, stored.value.registered_at_ms) == (1, committed.at_ms)
        (stored,) = await world.ledger.read(NS, Collection.CONFIG_LAYERS, [layer.scope.key])
        assert stored.value.scope == layer.scope
        assert stored.value.values == layer.values
        assert stored.value.may_widen == layer.may_widen
        assert (stored.value.revision, stored.value.updated_at_ms) == (1, committed.at_ms)
        (stored,) = await world.ledger.read(NS, Collection.CONFIG_SCHEMAS, ["extra"])
        assert stored.value.document == schema.document
        assert (stored.value.revision, stored.value.updated_at_ms) == (1, committed.at_ms)
        (stored,) = await world.ledger.read(NS, Collection.POLICIES, ["p"])
        assert stored.value.conditions == policy.conditions
        assert (stored.value.revision, stored.value.action) == (1, Effect.DENY)

    async def test_reading_answers_in_order_with_none_for_what_is_missing(self, world):
        await world.ledger.commit(transaction(put_name("a"), put_name("b")))
        records = await world.ledger.read(NS, Collection.NAMES, ["b", "x", "a"])
        assert [r and r.key for r in records] == ["b", None, "a"]
        assert await world.ledger.read(NS, Collection.NAMES, []) == []
        assert await world.ledger.read("nowhere", Collection.NAMES, ["a"]) == [None]

    async def test_a_negative_history_length_is_refused_before_anything_happens(self, world):
        with pytest.raises(ValueError, match="keep"):
            await world.ledger.commit(transaction(put_name("k"), Append("h", "v", keep=-1)))
        assert await read_name(world, "k") is None


class TestConditions:
    @pytest.mark.parametrize(
        ("expect", "holds"),
        [
            (Expect(revision=2), True),
            (Expect(revision=1), False),
            (Expect(generation=1), True),
            (Expect(generation=2), False),
            (Expect(revision=2, generation=1), True),
            (Expect(revision=2, generation=2), False),
            (ABSENT, False),
            (Expect(revision=2**63 - 1), False),
            (Expect(revision=-1), False),
        ],
    )
    @pytest.mark.parametrize("kind", ["put", "delete", "require"])
    async def test_an_expectation_decides(self, world, expect, holds, kind):
        for value in ("one", "two"):
            await world.ledger.commit(transaction(put_name("k", value)))
        steps: dict[str, Step] = {
            "put": put_name("k", "three", expect),
            "delete": Delete(Collection.NAMES, "k", expect),
            "require": Require(Collection.NAMES, "k", expect),
        }
        step = steps[kind]
        if holds:
            assert (await world.ledger.commit(transaction(step))).revision == 3
            return
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(put_name("other"), step))
        assert refusal.value.step == 1
        assert refusal.value.current_revision == 2
        assert refusal.value.current_generation == 1
        assert await read_name(world, "other") is None

    async def test_a_missing_record_satisfies_absent_and_nothing_else(self, world):
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(put_name("k", expect=Expect(revision=7))))
        assert (refusal.value.current_revision, refusal.value.current_generation) == (0, 0)
        await world.ledger.commit(transaction(put_name("k", expect=ABSENT)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(put_name("k", expect=ABSENT)))

    async def test_the_first_failing_step_is_named(self, world):
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(
                transaction(
                    put_name("a"),
                    Require(Collection.NAMES, "b", Expect(revision=1)),
                    Require(Collection.NAMES, "c", Expect(revision=1)),
                )
            )
        assert refusal.value.step == 1

    async def test_conditions_see_the_state_before_the_transaction(self, world):
        await world.ledger.commit(transaction(put_name("k")))
        committed = await world.ledger.commit(
            transaction(put_name("k", "new"), Require(Collection.NAMES, "k", Expect(revision=1)))
        )
        assert committed.revision == 2

    @pytest.mark.parametrize("place", range(7))
    async def test_nothing_is_written_when_a_condition_fails_at_any_step(self, world, place):
        await world.ledger.commit(transaction(put_name("kept", "old"), SetDeadline("i", 60_000)))
        deadlines = await world.beat_log().deadlines(NS)
        effects: list[Step] = [
            put_name("kept", "new"),
            put_name("made"),
            Delete(Collection.NAMES, "kept"),
            Append("h", "entry"),
            SetDeadline("i", 120_000),
            ClearDeadline("i"),
        ]
        effects.insert(place, Require(Collection.NAMES, "absent", Expect(revision=1)))
        request = RequestKey("req", "digest")
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(*effects, request=request))
        assert refusal.value.step == place
        assert (await read_name(world, "kept")).value == "old"
        assert await read_name(world, "made") is None
        assert await world.ledger.read_history(NS, "h") == []
        assert await world.beat_log().deadlines(NS) == deadlines
        assert [revision for revision, _, _ in await world.ledger.read_audit(NS)] == [1]
        assert await world.ledger.find_request(NS, request) is None
        assert (await world.ledger.commit(transaction(put_name("next")))).revision == 2

    async def test_only_an_expired_deadline_satisfies_require_expired(self, world):
        with pytest.raises(ConditionFailed) as refusal:
            await world.ledger.commit(transaction(RequireExpired("i")))
        assert refusal.value.step == 0
        await world.ledger.commit(transaction(SetDeadline("i", 60_000)))
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(RequireExpired("i"), put_name("k")))
        await world.ledger.commit(transaction(SetDeadline("i", 3)))
        await world.pass_ms(5)
        await world.ledger.commit(transaction(RequireExpired("i"), ClearDeadline("i")))
        assert await world.beat_log().deadlines(NS) == {}
        with pytest.raises(ConditionFailed):
            await world.ledger.commit(transaction(RequireExpired("i")))


class TestReplay:
    async def test_a_repeated_request_gets_the_first_result(self, world):
        request = RequestKey("req-1", "digest")
        put = put_name("k", expect=ABSENT)
        first = await world.ledger.commit(transaction(put, request=request, answer="agt-é"))
        again = await world.ledger.commit(transaction(put, request=request, answer="other"))
        assert (again.revision, again.at_ms) == (first.revision, first.at_ms)
        assert again.answer == "agt-é"
        assert (first.replayed, again.replayed) == (False, True)
        assert len(await world.ledger.read_audit(NS)) == 1

    async def test_a_replay_is_answered_before_any_condition(self, world):
        request = RequestKey("req-1", "digest")
        await world.ledger.commit(transaction(put_name("k", expect=ABSENT), request=request))
        impossible = Require(Collection.NAMES, "k", Expect(revision=99))
        again = await world.ledger.commit(transaction(impossible, request=request))
        assert again.replayed

    async def test_another_digest_is_refused(self, world):
        await world.ledger.commit(transaction(put_name("k"), request=RequestKey("req", "one")))
        with pytest.raises(RequestIdReused):
            await world.ledger.commit(transaction(put_name("l"), request=RequestKey("req", "two")))
        assert await read_name(world, "l") is None

    async def test_requests_of_namespaces_do_not_meet(self, world):
        request = RequestKey("req", "one")
        await world.ledger.commit(transaction(put_name("k"), request=request))
        other = await world.ledger.commit(
            transaction(put_name("k"), request=RequestKey("req", "two"), namespace="team-b")
        )
        assert not other.replayed

    async def test_a_request_can_be_looked_up(self, world):
        request = RequestKey("req", "digest")
        assert await world.ledger.find_request(NS, request) is None
        first = await world.ledger.commit(
            transaction(put_name("k"), request=request, answer="agt-1")
        )
        found = await world.ledger.find_request(NS, request)
        assert found is not None
        assert (found.revision, found.at_ms, found.answer) == (1, first.at_ms, "agt-1")
        assert found.replayed
        with pytest.raises(RequestIdReused):
            await world.ledger.find_request(NS, RequestKey("req", "other"))

    async def test_of_concurrent_repetitions_one_is_carried_out(self, world):
        request = RequestKey("req", "digest")
        results = await asyncio.gather(
            *(world.ledger.commit(transaction(put_name("k"), request=request)) for _ in range(20))
        )
        assert {r.revision for r in results} == {1}
        assert sum(not r.replayed for r in results) == 1


class TestCommitMany:
    async def test_each_transaction_stands_for_itself_in_order(self, world):
        request = RequestKey("req", "digest")
        outcomes = await world.ledger.commit_many(
            [
                transaction(put_name("a", "1", ABSENT), request=request, answer="first"),
                transaction(put_name("a", "2", ABSENT)),
                transaction(put_name("a", "3", Expect(revision=1))),
                transaction(put_name("z"), request=request),
                transaction(put_name("z"), request=RequestKey("req", "other")),
                transaction(put_name("b"), namespace="team-b"),
            ]
        )
        assert (outcomes[0].revision, outcomes[0].answer) == (1, "first")
        assert isinstance(outcomes[1], ConditionFailed)
        assert outcomes[1].current_revision == 1
        assert outcomes[2].revision == 2
        assert (outcomes[3].revision, outcomes[3].replayed) == (1, True)
        assert isinstance(outcomes[4], RequestIdReused)
        assert outcomes[5].revision == 1
        assert (await read_name(world, "a")).value == "3"
        assert await world.ledger.commit_many([]) == []
