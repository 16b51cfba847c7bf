"""Streams of the audit go on where they were: no entry and no line comes twice or never."""

from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from fleetplane import AuditExporting, AuditVerifying, AuditWatch
from fleetplane._watches import MAX_SILENCE
from fleetplane.v1 import audit_service_pb2 as pb
from fleetplane.v1 import watch_pb2

AWAY = watch_pb2.GoAway(reason=watch_pb2.GoAway.REASON_DRAINING)


class Stream:
    """One stream: what it says before it ends, or breaks."""

    def __init__(self, messages: Iterable[Any]) -> None:
        self._messages = list(messages)

    async def read(self) -> Any:
        if not self._messages:
            return grpc.aio.EOF
        return self._messages.pop(0)

    def cancel(self) -> None:
        self._messages.clear()


class Daemon:
    """Answers each opening with the next script, and remembers where it was asked to begin."""

    def __init__(self, *scripts: Iterable[Any]) -> None:
        self._scripts = list(scripts)
        self.asked: list[int | None] = []

    def open_at(self, after: int | None = None) -> Stream:
        self.asked.append(after)
        return Stream(self._scripts.pop(0))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back without a wait."""
    monkeypatch.setattr("fleetplane._calls.Backoff.next", lambda *_: 0.0)


def event(sequence: int) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(event=pb.AuditEvent(sequence=sequence))


async def test_a_watch_goes_on_behind_what_it_delivered() -> None:
    daemon = Daemon(
        [pb.WatchEventsResponse(bookmark=4), event(5), event(6)],
        [event(6), event(7), pb.WatchEventsResponse(bookmark=9)],
        [pb.WatchEventsResponse(go_away=AWAY)],
        [event(10)],
    )
    seen = []
    async with AuditWatch(daemon.open_at, after=None, max_silence=MAX_SILENCE) as watch:
        async for one in watch:
            seen.append(one.sequence)
            if one.sequence == 10:
                break
    assert seen == [5, 6, 7, 10]
    assert daemon.asked == [None, 6, 9, 9]


def lines(text: bytes) -> pb.ExportAuditResponse:
    return pb.ExportAuditResponse(lines=text)


def seal(first: int, last: int) -> bytes:
    return b'{"seal":{"first":%d,"last":%d,"previous":"00"}}\n' % (first, last)


async def test_an_export_goes_on_behind_its_last_seal_and_repeats_no_line() -> None:
    end = pb.AuditCheckpoint(sequence=9, head="aa")
    daemon = Daemon(
        [
            lines(b'{"audit":1}\n'),
            lines(b'{"sequence":1}\n' + seal(1, 1)),
            lines(b'{"sequence":2}\n'),
        ],
        [lines(b'{"sequence":2}\n'), lines(seal(2, 2)), pb.ExportAuditResponse(go_away=AWAY)],
        [
            lines(b'{"sequence":3}\n' + seal(3, 9)),
            lines(b'{"checkpoint":{}}\n'),
            pb.ExportAuditResponse(checkpoint=end),
        ],
    )
    pieces = [piece async for piece in AuditExporting(daemon.open_at, after=0)]
    assert pieces.pop() == end
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == (
        b'{"audit":1}\n{"sequence":1}\n'
        + seal(1, 1)
        + b'{"sequence":2}\n'
        + seal(2, 2)
        + b'{"sequence":3}\n'
        + seal(3, 9)
        + b'{"checkpoint":{}}\n'
    )
    assert daemon.asked == [0, 1, 2]


async def test_an_export_of_nothing_ends_with_its_checkpoint() -> None:
    end = pb.AuditCheckpoint(sequence=0, head="aa")
    daemon = Daemon(
        [
            lines(b'{"audit":1}\n'),
            lines(b'{"checkpoint":{}}\n'),
            pb.ExportAuditResponse(checkpoint=end),
        ]
    )
    pieces = [piece async for piece in AuditExporting(daemon.open_at, after=0)]
    assert pieces == [b'{"audit":1}\n{"checkpoint":{}}\n', end]


async def test_a_verification_begins_anew_when_it_is_interrupted() -> None:
    result = pb.AuditVerification(unsealed=2)
    daemon = Daemon(
        [pb.VerifyAuditResponse(verified_through=4096)],
        [pb.VerifyAuditResponse(verified_through=4096), pb.VerifyAuditResponse(result=result)],
    )
    steps = [step async for step in AuditVerifying(daemon.open_at)]
    assert steps == [4096, 4096, result]
