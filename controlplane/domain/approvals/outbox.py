"""When the state of an approval is told to the webhook, and when it is tried again.

Level-triggered: what is told is the state of that moment. States that follow each other faster than
they can be told are told as one, as in a watch; none is told twice unless its receipt was lost.
"""

from dataclasses import dataclass, replace
from typing import Final

CLAIM_MS: Final = 60_000
"""How long whoever tells keeps the others from it: far above the 10 s that one attempt may take."""

RETRY_MS: Final = (5_000, 30_000, 120_000, 600_000, 1_800_000, 3_600_000)
"""Pauses after the first failures; the last one repeats. As Standard Webhooks recommends, within
the 24 h for which an approval can wait."""

GIVE_UP_AFTER: Final = 30
"""Attempts for one state, a little more than a day; then only the next state is tried."""

STALE_MS: Final = 3_600_000
"""What ended longer ago and was never told is no news: the webhook was set up after it."""


REMINDERS: Final = (80, 50)
"""Hundredths of the time to decide after which people are reminded: silent expiry kills work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the webhook was told about one approval. Times: the store's clock.

    Attributes:
        approval_id: Which.
        told: State that the webhook has acknowledged; empty: none.
        attempts: Failures for the present state.
        state: State that `attempts` are about.
        next_attempt_at_ms: Nobody tries before: a claim, or the pause after a failure.
        error: Why the last attempt failed.
        reminded: Hundredths of the time to decide of the last reminder; 0: there was none.
        revision: Of the record; filled in by the ledger.
    """

    approval_id: str
    told: str = ""
    attempts: int = 0
    state: str = ""
    next_attempt_at_ms: int = 0
    error: str = ""
    reminded: int = 0
    revision: int = 0


def is_due(delivery: Delivery | None, state: str, *, ended_at_ms: int, now_ms: int) -> bool:
    """Return whether the webhook is to be told of `state` now."""
    if delivery is None:
        return ended_at_ms == 0 or now_ms - ended_at_ms < STALE_MS
    if delivery.told == state or now_ms < delivery.next_attempt_at_ms:
        return False
    return delivery.state != state or delivery.attempts < GIVE_UP_AFTER


def reminder(
    delivery: Delivery | None, state: str, *, opened_at_ms: int, expires_at_ms: int, now_ms: int
) -> int:
    """Return the hundredths of the time to decide that people are to be reminded of now, or 0.

    Only while it is PENDING, and once per share; time that is given later puts none back.
    """
    if delivery is None or delivery.told != state or state != "PENDING":
        return 0
    if now_ms < delivery.next_attempt_at_ms or now_ms >= expires_at_ms:
        return 0
    passed = 100 * (now_ms - opened_at_ms) // max(expires_at_ms - opened_at_ms, 1)
    due = next((share for share in REMINDERS if passed >= share), 0)
    return due if due > delivery.reminded else 0


def reminding(delivery: Delivery, share: int, *, now_ms: int) -> Delivery:
    """Return the record that keeps the other replicas from the same reminder.

    It counts as given whatever becomes of it: one that comes late is worth less than none.
    """
    return replace(delivery, reminded=share, next_attempt_at_ms=now_ms)


def claimed(delivery: Delivery | None, approval_id: str, state: str, *, now_ms: int) -> Delivery:
    """Return the record that keeps the other replicas from telling the same."""
    known = delivery or Delivery(approval_id=approval_id)
    attempts = known.attempts if known.state == state else 0
    return replace(known, state=state, attempts=attempts, next_attempt_at_ms=now_ms + CLAIM_MS)


def delivered(delivery: Delivery, *, now_ms: int) -> Delivery:
    """Return the record after the webhook has acknowledged the state."""
    return replace(delivery, told=delivery.state, attempts=0, error="", next_attempt_at_ms=now_ms)


def failed(delivery: Delivery, error: str, *, now_ms: int) -> Delivery:
    """Return the record after an attempt that failed."""
    pause_ms = RETRY_MS[min(delivery.attempts, len(RETRY_MS) - 1)]
    return replace(
        delivery,
        attempts=delivery.attempts + 1,
        error=error,
        next_attempt_at_ms=now_ms + pause_ms,
    )
