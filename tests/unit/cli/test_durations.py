import pytest
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.cli.durations import between, compact, deadline, duration, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("2d", 172_800.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("0", 0.0),
        (" 10S ", 10.0),
    ],
)
def test_a_duration_is_numbers_with_units_or_seconds(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "10x", "s", "1h 30m", "-5s", "-1", "inf", "nan"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "0s"])
def test_a_deadline_leaves_some_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no time"):
        deadline(text)
    assert deadline("1ms") == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0s"),
        (4.24, "4.2s"),
        (42.4, "42s"),
        (60, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (5400, "1h30m"),
        (90_000, "1d1h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert compact(seconds) == text


def test_durations_and_times_of_the_contract_are_read() -> None:
    assert seconds_of(Duration(seconds=1, nanos=500_000_000)) == 1.5
    early, late = Timestamp(seconds=5), Timestamp(seconds=7, nanos=500_000_000)
    assert between(early, late) == 2.5
    assert between(late, early) == 0.0
