"""How times are put into words."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.cli.moments import until

NOW = 1_800_000_000
DAY = 86_400


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (30 * DAY, "in 30d"),
        (30 * DAY - 30, "in 30d"),
        (30 * DAY - 3600, "in 29d"),
        (3600 - 20, "in 1h"),
        (3 * 3600 + 1800, "in 3h"),
        (90, "in 1m"),
        (10, "in 10.1s"),
        (0, "over"),
        (-5, "over"),
    ],
)
def test_what_was_just_made_to_last_thirty_days_ends_in_thirty_days(left: int, text: str) -> None:
    assert until(Timestamp(seconds=NOW + left), NOW) == text
