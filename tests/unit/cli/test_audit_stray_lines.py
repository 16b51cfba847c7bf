"""Whoever adds entries to an exported audit is found, whatever number he gives them."""

import pytest

from controlplane.cli.audit_files import verify_file
from controlplane.domain.audit.chain import NO_KEYS, StoredEntry
from controlplane.domain.audit.verification import ProblemKind
from controlplane.services.audit.lines import entry_line
from tests.fakes.audit_world import MemoryAuditWorld


@pytest.mark.parametrize("sequence", [1, 3, 9, 10_000])
async def test_an_entry_under_a_seal_that_does_not_cover_it(tmp_path, sequence):
    world = MemoryAuditWorld()
    for _ in range(3):
        await world.write(3)
        await world.seal()
    lines, _ = await world.exported()
    path = tmp_path / "audit.jsonl"
    path.write_bytes(lines)
    assert verify_file(path, NO_KEYS).problem is None

    (forged,) = await world.log.entries("team-a", after=4, limit=1)
    added = entry_line(StoredEntry(sequence=sequence, at_ms=forged.at_ms, data=forged.data))
    second_seal = [n for n, line in enumerate(lines.splitlines()) if b'"seal"' in line][1]
    changed = lines.splitlines(keepends=True)
    path.write_bytes(b"".join((*changed[:second_seal], added, *changed[second_seal:])))

    problem = verify_file(path, NO_KEYS).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.ENTRY_ALTERED, sequence)
