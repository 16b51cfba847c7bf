"""When a webhook is told, and when it is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.approvals import outbox
from controlplane.domain.approvals.outbox import Delivery

NOW = 1_000_000_000


def due(delivery: Delivery | None, state: str = "PENDING", ended: int = 0, now: int = NOW) -> bool:
    return outbox.is_due(delivery, state, ended_at_ms=ended, now_ms=now)


def told(state: str) -> Delivery:
    claim = outbox.claimed(None, "a", state, now_ms=NOW)
    return outbox.delivered(claim, now_ms=NOW)


def test_every_state_is_told_once() -> None:
    assert due(None)
    assert not due(told("PENDING"))
    assert due(told("PENDING"), "GRANTED")


def test_whoever_claims_keeps_the_others_from_it_for_a_while() -> None:
    claim = outbox.claimed(None, "a", "PENDING", now_ms=NOW)
    assert not due(claim, now=NOW + outbox.CLAIM_MS - 1)
    assert due(claim, now=NOW + outbox.CLAIM_MS), "the one who claimed it has died"


def test_what_ended_long_ago_and_was_never_told_is_no_news() -> None:
    assert due(None, "DENIED", ended=NOW - outbox.STALE_MS + 1)
    assert not due(None, "DENIED", ended=NOW - outbox.STALE_MS)


@given(st.integers(0, 40))
def test_pauses_grow_and_end_after_a_day(failures: int) -> None:
    delivery, now, pauses = None, NOW, []
    for _ in range(failures):
        claim = outbox.claimed(delivery, "a", "PENDING", now_ms=now)
        delivery = outbox.failed(claim, "HTTP 500", now_ms=now)
        pauses.append(delivery.next_attempt_at_ms - now)
        now = delivery.next_attempt_at_ms
    assert pauses == sorted(pauses)
    assert due(delivery, now=now) is (failures < outbox.GIVE_UP_AFTER)
    if delivery is not None:
        assert due(delivery, "GRANTED", now=now), "the next state is tried anew"
        anew = outbox.claimed(delivery, "a", "GRANTED", now_ms=now)
        assert anew.attempts == 0
