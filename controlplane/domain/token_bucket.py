"""Token buckets: how many of something may be had per second, on the average and at once.

A bucket is one number, the moment at which it is full again (the generic cell rate algorithm). It
is refilled by the passing of time alone: nothing has to be done for buckets that nobody uses, and a
rate that changes counts from the next look. Time is an argument, in seconds; it never goes back.
"""

from collections import OrderedDict
from math import inf
from typing import Final

BURST_SECONDS: Final = 10.0
"""A bucket holds what is refilled in this many seconds. An agent that comes back, a deployment or a
script asks for everything at once and is quiet then: that is less than ten seconds' worth. Whoever
was quiet for longer has not earned a larger burden for others."""

TOLERANCE_SECONDS: Final = 1e-6
"""Moments are sums of floats: who has waited as long as told must not be a rounding short. What is
granted too early by this does not add up, since the bound is on a moment, not on a sum."""

STRANGERS: Final = 64
"""Shared buckets of a table that is full. More of them spread innocent newcomers better, fewer of
them grant a crowd less; 64 times one caller's rate is what any 64 callers may have anyway."""


class TokenBucket:
    """One bucket; full at first."""

    __slots__ = ("_burst_seconds", "_full_at")

    def __init__(self, burst_seconds: float = BURST_SECONDS) -> None:
        """Hold what is refilled in so many seconds."""
        self._burst_seconds = burst_seconds
        self._full_at = -inf

    def spend(self, amount: float, rate: float, now: float) -> float:
        """Take `amount` tokens, or none.

        An amount that the bucket can never hold is granted when it is full and paid off afterwards,
        so that a large request is late but not impossible.

        Args:
            amount: How many, above 0.
            rate: Tokens per second that are refilled, above 0.
            now: The moment, in seconds.

        Returns:
            0.0 if they were taken; else the seconds until they can be, if nobody else takes any.
        """
        full_at = self._full_at
        if full_at <= now:
            self._full_at = now + amount / rate
            return 0.0
        paid_at = full_at + amount / rate
        wait = min(paid_at - self._burst_seconds, full_at) - now
        if wait > TOLERANCE_SECONDS:
            return wait
        self._full_at = paid_at
        return 0.0

    def is_full(self, now: float) -> bool:
        """Return whether this bucket cannot be told from a new one."""
        return self._full_at <= now


class TokenBuckets:
    """The buckets of many keys, in memory that does not grow beyond `capacity` of them.

    Why no crowd of new keys can get an old one a refill, or get much itself:

    * A bucket is forgotten only when it is full. The key then finds a new one, which is full as
      well: forgetting changes nothing for anybody.
    * The one that was asked for least recently is looked at, because it is the likeliest to be
      full: unless somebody took more than fits, every bucket is full `burst_seconds` after it was
      last used.
    * If it is not full, `capacity` keys were busy within that time. Nobody is forgotten then; the
      newcomer takes from one of a few shared buckets, chosen by the hash of its key, which is
      seeded per process, so nobody can aim at a neighbour. All newcomers together have the rate of
      those few buckets, however many names they go by, and those that are known lose nothing.
    * A key that was a newcomer and is known later has had its own bucket and a part of a shared
      one: never more than two buckets' worth.

    Each call is a constant number of dictionary operations, whether the table is full or not.
    """

    __slots__ = ("_buckets", "_burst_seconds", "_capacity", "_strangers")

    def __init__(
        self,
        capacity: int,
        *,
        strangers: int = STRANGERS,
        burst_seconds: float = BURST_SECONDS,
    ) -> None:
        """Remember at most `capacity` keys (at least 1), with `strangers` shared buckets beside.

        Each bucket holds what is refilled in `burst_seconds`.
        """
        self._capacity = capacity
        self._burst_seconds = burst_seconds
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._strangers = tuple(TokenBucket(burst_seconds) for _ in range(strangers))

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, key: str, amount: float, rate: float, now: float) -> float:
        """Take from the bucket of `key`; see `TokenBucket.spend`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._bucket_for_newcomer(key, now)
        else:
            self._buckets.move_to_end(key)
        return bucket.spend(amount, rate, now)

    def _bucket_for_newcomer(self, key: str, now: float) -> TokenBucket:
        buckets = self._buckets
        if len(buckets) >= self._capacity:
            oldest = next(iter(buckets))
            if not buckets[oldest].is_full(now):
                return self._strangers[hash(key) % len(self._strangers)]
            del buckets[oldest]
        bucket = buckets[key] = TokenBucket(self._burst_seconds)
        return bucket
