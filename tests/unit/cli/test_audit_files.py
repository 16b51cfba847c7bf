"""Exported audits verify without a daemon, and are gone on with where they end."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.cli.audit_files import end_of_file, verify_file
from controlplane.cli.outcomes import WrongInput
from controlplane.domain.audit.chain import Keys
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.verification import ProblemKind
from tests.fakes.audit_world import KEY, NS, OTHER_KEY, MemoryAuditWorld

COUNTS = (3, 1, 4)


async def exported(keys: Keys | None = None) -> bytes:
    world = MemoryAuditWorld()
    for count in COUNTS:
        await world.write(count)
        await world.seal(keys)
    lines, _ = await world.exported()
    return lines


def kept(tmp_path: Path, lines: bytes) -> Path:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(lines)
    return path


async def test_a_whole_file_is_proven(tmp_path):
    result = verify_file(kept(tmp_path, await exported()), Keys())
    assert result.problem is None
    assert (result.namespace, result.first, result.verified.sequence) == (NS, 1, 8)
    assert (result.unsealed, result.keyless_through) == (0, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
async def test_no_bit_of_a_file_changes_unnoticed(tmp_path, place, bit):
    lines = await exported()
    damaged = bytearray(lines)
    damaged[place % len(lines)] ^= 1 << bit
    path = kept(tmp_path, bytes(damaged))
    try:
        result = verify_file(path, Keys())
    except WrongInput:
        return
    if result.problem is None:
        # Case of hexadecimal digits, names of what nobody reads, or the end of a file in two.
        assert says(bytes(damaged)) == says(lines) or result.verified.sequence < 8


def says(lines: bytes) -> list[object]:
    said: list[object] = []
    for line in lines.splitlines():
        value = json.loads(line.lower())
        said.append((value.get("sequence"), value.get("entry"), value.get("seal")))
    return said


async def test_entries_that_are_left_out_or_changed_are_named(tmp_path):
    lines = (await exported()).splitlines(keepends=True)
    entry = next(n for n, line in enumerate(lines) if line.startswith(b'{"sequence":5,'))
    gone = verify_file(kept(tmp_path, b"".join(lines[:entry] + lines[entry + 1 :])), Keys())
    assert gone.problem is not None
    assert (gone.problem.kind, gone.problem.sequence) == (ProblemKind.ENTRY_MISSING, 5)
    lines[entry] = lines[entry].replace(b'"ann"', b'"ben"')
    changed = verify_file(kept(tmp_path, b"".join(lines)), Keys())
    assert changed.problem is not None
    assert (changed.problem.kind, changed.problem.sequence) == (ProblemKind.ENTRY_ALTERED, 5)


async def test_a_remembered_head_and_a_key_are_asked_for(tmp_path):
    keys = Keys([KEY])
    path = kept(tmp_path, await exported(keys))
    assert verify_file(path, keys).problem is None
    for wrong in (Keys(), Keys([OTHER_KEY])):
        problem = verify_file(path, wrong).problem
        assert problem is not None
        assert problem.kind is ProblemKind.UNKNOWN_KEY
    problem = verify_file(path, keys, Checkpoint(sequence=4, head="0" * 64)).problem
    assert problem is not None
    assert (problem.kind, problem.sequence) == (ProblemKind.HEAD_DIFFERS, 4)


@pytest.mark.parametrize(
    "lines", [b"", b"{}\n", b"no json\n", b'{"sequence":1,"at_ms":1,"entry":{}}\n']
)
def test_what_is_no_export_is_refused(tmp_path, lines):
    with pytest.raises(WrongInput):
        verify_file(kept(tmp_path, lines), Keys())


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WrongInput):
        verify_file(tmp_path / "none", Keys())


@pytest.mark.parametrize("cut", [1, 40, 200, 700, 1200])
async def test_a_file_that_broke_off_goes_on_behind_its_last_seal(tmp_path, cut):
    lines = await exported()
    path = kept(tmp_path, lines[:-cut])
    end = end_of_file(path)
    assert end is not None
    assert end.namespace == NS
    assert end.sequence in {3, 4, 8}
    assert lines[: end.size].splitlines()[-1].startswith(b'{"seal":')


async def test_a_file_with_no_seal_begins_anew(tmp_path):
    assert end_of_file(kept(tmp_path, (await exported())[:300])) is None
