"""Whatever is done to the stored audit, a verification names where it begins."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.audit.chain import DIGEST_BYTES, Key, Keys, heads_through, leaf_of, seal_of
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.refusals import AuditTrimmed
from controlplane.domain.audit.verification import ProblemKind
from controlplane.services.audit.sealing import BLOCK, Outcome
from tests.fakes.audit_world import KEY, NS, OTHER_KEY, MemoryAuditWorld, flipped

SEALS = (1, 4, 9, 12)
"""Last entries of the seals of `sealed_world`; 13 and 14 are not sealed yet."""

NEWEST = 14


async def sealed_world(keys: Keys | None = None) -> MemoryAuditWorld:
    world = MemoryAuditWorld()
    written = 0
    for last in SEALS:
        await world.write(last - written)
        written = last
        assert await world.seal(keys) is Outcome.SEALED
    await world.write(NEWEST - written)
    return world


def first_of(last: int) -> int:
    return (0, *SEALS)[SEALS.index(last)] + 1


async def test_an_untouched_audit_is_whole():
    world = await sealed_world()
    result = await world.verify()
    assert (result.problem, result.unsealed, result.first) == (None, 2, 1)
    assert result.verified.sequence == 12
    await world.seal()
    assert (await world.verify()).verified.sequence == NEWEST


async def test_an_empty_audit_is_whole():
    result = await MemoryAuditWorld().verify()
    assert (result.problem, result.verified.sequence, result.unsealed) == (None, 0, 0)


@settings(max_examples=150, deadline=None)
@given(sequence=st.integers(1, 12), byte=st.integers(0, 400), keyed=st.booleans())
async def test_one_byte_of_any_sealed_entry(sequence, byte, keyed):
    keys = Keys([KEY]) if keyed else Keys()
    world = await sealed_world(keys)
    await world.alter_entry(sequence, byte)
    result = await world.verify(keys)
    assert result.problem is not None
    assert (result.problem.kind, result.problem.sequence) == (ProblemKind.ENTRY_ALTERED, sequence)
    assert result.verified.sequence < sequence


@given(sequence=st.integers(1, 12))
async def test_the_time_of_any_sealed_entry(sequence):
    world = await sealed_world()
    await world.alter_time(sequence)
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_ALTERED, sequence)


@given(sequence=st.integers(1, NEWEST))
async def test_any_entry_that_is_removed(sequence):
    world = await sealed_world()
    await world.remove_entries(sequence)
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_MISSING, sequence)


@given(first=st.integers(1, NEWEST))
async def test_a_tail_that_is_cut_off(first):
    world = await sealed_world()
    await world.remove_entries(*range(first, NEWEST + 1))
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_MISSING, first)


@given(pair=st.lists(st.integers(1, 12), min_size=2, max_size=2, unique=True))
async def test_entries_that_change_places(pair):
    world = await sealed_world()
    await world.swap_entries(*pair)
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_ALTERED, min(pair))


@given(
    last=st.sampled_from(SEALS),
    field=st.sampled_from(["previous", "head", "leaves"]),
    byte=st.integers(0, 400),
    keyed=st.booleans(),
)
async def test_one_byte_of_any_seal(last, field, byte, keyed):
    keys = Keys([KEY]) if keyed else Keys()
    world = await sealed_world(keys)
    (seal,) = [s for s in await world.log.seals(NS, after=0, limit=9) if s.last == last]
    await world.alter_seal(last, **{field: flipped(getattr(seal, field), byte)})
    problem = (await world.verify(keys)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.SEAL_ALTERED, first_of(last))


@pytest.mark.parametrize("first", [0, 1, 6, 99])
async def test_a_seal_that_claims_other_entries(first):
    world = await sealed_world()
    await world.alter_seal(9, first=first)
    problem = (await world.verify()).problem
    assert problem is not None
    assert problem.kind in {ProblemKind.SEAL_ALTERED, ProblemKind.SEAL_MISSING}
    assert problem.sequence in {first, 5}


@pytest.mark.parametrize("last", SEALS)
async def test_any_seal_that_is_removed(last):
    world = await sealed_world()
    await world.remove_seal(last)
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.SEAL_MISSING, first_of(last))


async def test_a_gap_that_is_there_before_the_seal_stays_on_record(caplog):
    world = MemoryAuditWorld()
    await world.write(5)
    (gone,) = await world.log.entries(NS, after=2, limit=1)
    await world.remove_entries(3)
    assert await world.seal() is Outcome.SEALED
    assert "missing" in caplog.text
    world.store.namespaces[NS].audit.insert(2, gone)
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_MISSING, 3)


async def test_an_entry_under_a_number_that_is_taken():
    world = await sealed_world()
    entries = world.store.namespaces[NS].audit
    entries.insert(3, dataclasses.replace(entries[2], data=b"{}"))
    problem = (await world.verify()).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_ALTERED, 3)


async def test_sealing_the_same_entries_anew_gives_the_same_heads():
    world = await sealed_world()
    before = (await world.verify()).verified
    await world.forget_seals()
    await world.remove_entries(13, 14)
    world.store.namespaces[NS].revision = 12
    await world.seal()
    assert (await world.verify()).verified == before


@pytest.mark.parametrize("sequence", [1, 5, 12])
async def test_a_remembered_head_tells_that_an_altered_audit_was_sealed_anew(sequence):
    world = await sealed_world()
    remembered = (await world.verify()).verified
    await world.alter_entry(sequence, 20)
    await world.forget_seals()
    await world.seal()
    assert (await world.verify()).problem is None
    for expected in (remembered, Checkpoint(sequence=0, head=remembered.head)):
        problem = (await world.verify(expected=expected)).problem
        assert problem is not None
        assert problem.kind is ProblemKind.HEAD_DIFFERS
    assert (await world.verify(expected=remembered)).problem.sequence == 12  # type: ignore[union-attr]  # asserted above


async def test_a_remembered_head_tells_that_the_end_is_gone():
    world = await sealed_world()
    await world.seal()
    remembered = (await world.verify()).verified
    state = world.store.namespaces[NS]
    await world.remove_entries(10, 11, 12, 13, 14)
    state.revision = state.sealed = 9
    state.seals[:] = [seal for seal in state.seals if seal.last <= 9]
    assert (await world.verify()).problem is None
    problem = (await world.verify(expected=remembered)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.HEAD_DIFFERS, 10)


async def test_an_older_head_is_found_wherever_it_is():
    world = await sealed_world()
    for seal in await world.log.seals(NS, after=0, limit=9):
        for sequence in (0, seal.last):
            expected = Checkpoint(sequence=sequence, head=seal.head.hex())
            assert (await world.verify(expected=expected)).problem is None


@pytest.mark.parametrize("forger", [Keys(), Keys([OTHER_KEY])])
async def test_who_lacks_the_key_cannot_seal_anew(forger):
    keys = Keys([KEY])
    world = await sealed_world(keys)
    await world.alter_entry(6, 20)
    seals = await world.log.seals(NS, after=0, limit=9)
    await world.forget_seals()
    for last in (1, 4):
        (kept,) = [seal for seal in seals if seal.last == last]
        assert await world.log.append_seal(NS, kept)
    await world.seal(forger)
    problem = (await world.verify(keys)).problem
    assert problem is not None
    kind = ProblemKind.UNKNOWN_KEY if forger.sealing else ProblemKind.SEAL_ALTERED
    assert (problem.kind, problem.sequence) == (kind, 5)


async def test_a_forged_name_of_the_key_does_not_help():
    keys = Keys([KEY])
    world = await sealed_world()
    for last in SEALS:
        await world.alter_seal(last, key_id=KEY.key_id)
    problem = (await world.verify(keys)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.SEAL_ALTERED, 1)


async def test_seals_from_before_the_key_are_told_apart():
    world = await sealed_world()
    keys = Keys([KEY])
    await world.seal(keys)
    result = await world.verify(keys)
    assert (result.problem, result.keyless_through, result.verified.sequence) == (None, 12, 14)


async def test_a_key_that_was_exchanged_still_verifies():
    world = await sealed_world(Keys([KEY]))
    both = Keys([OTHER_KEY, KEY])
    await world.seal(both)
    assert (await world.verify(both)).problem is None
    problem = (await world.verify(Keys([OTHER_KEY]))).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.UNKNOWN_KEY, 1)
    problem = (await world.verify(Keys())).problem
    assert problem is not None
    assert problem.kind is ProblemKind.UNKNOWN_KEY


def test_a_key_does_not_show_itself():
    assert KEY.secret.decode() not in repr(KEY)
    assert Key.of(b"k" * 32) == KEY
    assert Key.of(b"l" * 32).key_id != KEY.key_id


class TestTrimmed:
    @pytest.mark.parametrize("through", [1, 3, 4, 5, 9, 11, 12])
    async def test_verification_goes_on_from_where_it_was_trimmed(self, through):
        world = await sealed_world()
        await trim(world, through)
        result = await world.verify()
        assert (result.problem, result.first) == (None, through + 1)
        await world.seal()
        result = await world.verify()
        assert (result.problem, result.verified.sequence) == (None, 15)
        await world.alter_entry(through + 1, 3)
        problem = (await world.verify()).problem
        assert problem is not None
        assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_ALTERED, through + 1)

    async def test_a_trim_that_nobody_wrote_down_is_no_trim(self):
        world = await sealed_world()
        await world.remove_entries(1, 2, 3, 4, 5)
        problem = (await world.verify()).problem
        assert problem is not None
        assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_MISSING, 1)

    async def test_a_record_without_its_entry_proves_nothing(self):
        world = await sealed_world()
        await trim(world, 5)
        await world.seal()
        (said,) = await world.log.entries(NS, after=14, limit=1)
        await world.alter_entry(15, said.data.index(b"audit.trimmed"))
        await world.forget_seals()
        # All is sealed anew, behind a record that now no entry speaks of.
        world.store.namespaces[NS].sealed = 5
        (record,) = world.store.namespaces[NS].records["auditkeeping"].values()  # type: ignore[index]  # a StrEnum
        base = record.value.base
        entries = await world.log.entries(NS, after=5, limit=99)
        await world.log.append_seal(
            NS, seal_of(6, map(leaf_of, entries), bytes.fromhex(base.head), None)
        )
        problem = (await world.verify()).problem
        assert problem is not None
        assert (problem.kind, problem.sequence) == (ProblemKind.TRIM_UNPROVEN, 1)

    async def test_leaves_of_the_seal_that_was_cut_are_still_bound(self):
        world = await sealed_world()
        await trim(world, 6)
        (seal,) = await world.log.seals(NS, after=6, limit=1)
        await world.alter_seal(9, leaves=flipped(seal.leaves, 0))
        problem = (await world.verify()).problem
        assert problem is not None
        assert problem.kind is ProblemKind.SEAL_ALTERED

    async def test_a_head_before_the_beginning_is_refused(self):
        world = await sealed_world()
        (old,) = await world.log.seals(NS, after=0, limit=1)
        await trim(world, 6)
        with pytest.raises(AuditTrimmed) as refusal:
            await world.verify(expected=Checkpoint(sequence=1, head=old.head.hex()))
        assert refusal.value.metadata == {"first_sequence": "7"}


async def trim(world: MemoryAuditWorld, through: int) -> None:
    (seal,) = await world.log.seals(NS, after=through - 1, limit=1)
    head = dict(heads_through(seal, None))[through]
    checkpoint = Checkpoint(sequence=through, head=head.hex())
    await world.keeper().trim(NS, checkpoint, reason="enough", actor="ann")


async def test_long_audits_are_verified_in_pieces():
    world = MemoryAuditWorld()
    await world.write(BLOCK * 20 + 7)
    assert await world.seal(ripe=False) is Outcome.SEALED
    assert (await world.log.extent(NS)).sealed == BLOCK * 20
    await world.seal()
    result = await world.verify()
    assert (result.problem, result.verified.sequence) == (None, BLOCK * 20 + 7)
    assert len(bytes.fromhex(result.verified.head)) == DIGEST_BYTES
