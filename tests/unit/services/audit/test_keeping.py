"""Exports, trims, retention: nothing goes that is not sealed and exported."""

import pytest

from controlplane.domain.audit.chain import Keys, Seal, StoredEntry
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.refusals import AuditNotExported, AuditTrimmed
from controlplane.domain.errors import InvalidArgument
from controlplane.services.audit.keeping import DAY_MS
from controlplane.services.audit.lines import NotALine, entry_line, read_line
from tests.fakes.audit_world import KEY, NS, MemoryAuditWorld
from tests.fakes.clock import FakeClock


@pytest.fixture
def world() -> MemoryAuditWorld:
    return MemoryAuditWorld()


async def sequences(world: MemoryAuditWorld) -> list[int]:
    return [entry.sequence for entry in await world.log.entries(NS, after=0, limit=999)]


async def test_an_export_holds_every_byte_and_every_seal(world):
    await world.write(3)
    await world.seal()
    await world.write(2)
    await world.seal()
    await world.write(1)
    lines, end = await world.exported()
    said = [read_line(line) for line in lines.splitlines()]
    assert said[0] == (NS, None)
    entries = [one for one in said if isinstance(one, StoredEntry)]
    assert entries == await world.log.entries(NS, after=0, limit=5)
    assert [one for one in said if isinstance(one, Seal)] == await world.log.seals(
        NS, after=0, limit=9
    )
    assert said[-1] == end == (await world.verify()).verified


async def test_an_export_goes_on_where_it_was_broken_off(world):
    await world.write(3)
    await world.seal()
    await world.write(4)
    await world.seal()
    whole, end = await world.exported()
    rest, same = await world.exported(after=3)
    assert whole.endswith(rest)
    assert same == end
    nothing, same = await world.exported(after=7)
    assert same == end
    assert nothing.count(b"\n") == 1
    for after in (2, 5, 8):
        with pytest.raises(InvalidArgument):
            await world.exported(after=after)


async def test_an_export_of_nothing_has_a_checkpoint(world):
    lines, end = await world.exported()
    assert end.sequence == 0
    assert lines.count(b"\n") == 2


async def test_a_damaged_entry_is_exported_to_the_byte():
    for data in (b"{\xff", b'{"a":\n1}', b"", b'"}\n{"seal":{}}'):
        entry = StoredEntry(sequence=3, at_ms=5, data=data)
        line = entry_line(entry)
        assert line.count(b"\n") == 1
        assert read_line(line.rstrip(b"\n")) == entry


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"seal":{}}',
        b'{"seal":3}',
        b'{"audit":2,"namespace":"a"}',
        b"\xff",
    ],
)
def test_what_is_no_line_is_said_to_be_none(line):
    with pytest.raises(NotALine):
        read_line(line)


async def test_only_what_is_sealed_is_trimmed_and_only_by_its_head(world):
    await world.write(5)
    await world.seal()
    await world.write(2)
    good = (await world.verify()).verified
    for checkpoint in (
        Checkpoint(sequence=5, head="0" * 64),
        Checkpoint(sequence=4, head=good.head),
        Checkpoint(sequence=6, head=good.head),
        Checkpoint(sequence=99, head=good.head),
    ):
        with pytest.raises(AuditNotExported) as refusal:
            await world.keeper().trim(NS, checkpoint, reason="", actor="ann")
        assert refusal.value.metadata == {"sealed_through": "5"}
        with pytest.raises(AuditNotExported):
            await world.keeper().confirm(NS, checkpoint, reason="", actor="ann")
    assert await sequences(world) == [1, 2, 3, 4, 5, 6, 7]
    assert await world.keeper().trim(NS, good, reason="vault", actor="ann") == (6, 5)
    assert await sequences(world) == [6, 7, 8]
    assert await world.keeper().trim(NS, good, reason="again", actor="ann") == (6, 0)
    assert await sequences(world) == [6, 7, 8]


async def test_a_trim_says_who_and_why_and_what_the_head_was(world):
    await world.write(5)
    await world.seal()
    good = (await world.verify()).verified
    await world.keeper().confirm(NS, good, reason="in the vault", actor="ann")
    await world.keeper().confirm(NS, good, reason="again", actor="ann")
    await world.keeper().trim(NS, good, reason="enough", actor="ben")
    (_, _, exported), (_, _, trimmed) = await world.ledger.read_audit(NS)
    assert (exported.event, exported.actor, exported.reason) == (
        "audit.exported",
        "ann",
        "in the vault",
    )
    assert (trimmed.event, trimmed.actor, trimmed.reason) == ("audit.trimmed", "ben", "enough")
    assert trimmed.details == {"sequence": "5", "head": good.head}
    status = await world.keeper().status(NS)
    assert (status.first, status.last) == (6, 7)
    assert [note.checkpoint for note in status.keeping.exports] == [good]
    assert [note.actor for note in status.keeping.trims] == ["ben"]
    with pytest.raises(AuditTrimmed):
        await world.exported(after=3)
    lines, _ = await world.exported()
    assert read_line(lines.splitlines()[0]) == (NS, good)


async def test_a_trim_that_was_broken_off_is_ended_later(world):
    await world.write(5)
    await world.seal()
    good = (await world.verify()).verified
    log, world.log = world.log, Unwilling(world.log)
    with pytest.raises(OSError, match="cut"):
        await world.keeper().trim(NS, good, reason="", actor="ann")
    world.log = log
    assert await sequences(world) == [1, 2, 3, 4, 5, 6]
    assert (await world.verify()).problem is None
    assert await world.keeper().retain(NS) == 5
    assert await sequences(world) == [6]


class Unwilling:
    """A store that is cut off before it trims."""

    def __init__(self, log) -> None:
        self._log = log

    def __getattr__(self, name):
        return getattr(self._log, name)

    async def trim(self, namespace, through):
        raise OSError(f"cut before {through} in {namespace}")


class TestRetention:
    async def test_what_is_old_goes_as_far_as_it_was_exported(self, world, caplog):
        assert isinstance(world.clock, FakeClock)
        keeper = world.keeper(retention_days=10)
        await world.write(4)
        await world.seal()
        exported = (await world.verify()).verified
        await world.write(3)
        await world.seal()
        world.clock.shift(9 * DAY_MS / 1000)
        await world.write(2)
        await world.seal()
        assert await keeper.retain(NS) == 0
        assert "not exported" not in caplog.text
        world.clock.shift(2 * DAY_MS / 1000)
        for _ in range(2):
            assert await keeper.retain(NS) == 0
        assert caplog.text.count("not exported") == 1
        await keeper.confirm(NS, exported, reason="", actor="ann")
        assert await keeper.retain(NS) == 4
        await world.seal()
        assert (await world.verify()).problem is None
        everything = (await world.verify()).verified
        await keeper.confirm(NS, everything, reason="", actor="ann")
        assert await keeper.retain(NS) == 3
        assert (await sequences(world))[0] == 8
        assert (await world.verify()).problem is None

    async def test_for_ever_is_for_ever(self, world):
        assert isinstance(world.clock, FakeClock)
        await world.write(4)
        await world.seal()
        await world.keeper().confirm(NS, (await world.verify()).verified, reason="", actor="ann")
        world.clock.shift(9999 * DAY_MS / 1000)
        assert await world.keeper().retain(NS) == 0

    async def test_a_cut_in_the_middle_of_a_seal_is_proven(self, world):
        keys = Keys([KEY])
        assert isinstance(world.clock, FakeClock)
        keeper = world.keeper(keys, retention_days=1)
        await world.write(4)
        world.clock.shift(0.6)
        await world.write(4)
        world.clock.shift(1.5)
        await world.seal(keys)
        await keeper.confirm(NS, (await world.verify(keys)).verified, reason="", actor="ann")
        world.clock.shift(DAY_MS / 1000 - 3.8)
        assert await keeper.retain(NS) == 4
        assert (await world.verify(keys)).problem is None
