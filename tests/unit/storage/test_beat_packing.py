import pytest

from controlplane.services.ports import BeatRecord
from controlplane.storage.redis.beat_log import pack_beats, unpack_beats
from controlplane.storage.redis.codec import UnreadableRecord

BEATS = [
    BeatRecord("i1", 2**53 + 1, 1, 2, 3, 4.5),
    BeatRecord("i2", 7, 0, 10**15, 0, 0.0, "token", 5, 4, 3, "error é"),
]


def test_beats_survive_packing():
    assert unpack_beats(pack_beats(BEATS)) == BEATS


def test_a_packed_beat_is_small():
    beats = [BeatRecord(f"ins-{n:08}", 123456, 3, 1000, 5, 12.5) for n in range(500)]
    assert len(pack_beats(beats)) / len(beats) < 50


@pytest.mark.parametrize("packed", [b"", b"\x02\x90", b"\x01garbage", b"\x01\x91\x91\x01"])
def test_what_cannot_be_understood_is_refused(packed):
    with pytest.raises(UnreadableRecord):
        unpack_beats(packed)
