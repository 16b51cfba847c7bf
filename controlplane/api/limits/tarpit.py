"""Holds refusals back from callers who do not wait as they are told.

A refused call costs a third of a millisecond, so a caller that asks again at once, sixty times at a
time, has a core to itself with nothing but refusals. Its answers come later instead: what asks
again when it has its answer asks less often then, and whoever keeps to `RetryInfo` notices nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from controlplane.api.context import Call
from controlplane.api.limits.networks import network_of
from controlplane.api.limits.waiting import Draw, draw
from controlplane.domain.access.refusals import RateLimited, Unauthenticated
from controlplane.domain.identity import CallerKind
from controlplane.domain.token_bucket import TokenBuckets

ANSWERED_PER_SECOND: Final = 10.0
"""Refusals of one caller, or of one network of unknown callers, that are answered at once; ten
seconds' worth may come together. A fleet that waits as it is told stays below it."""

HOLD_SECONDS: Final = 0.25
"""How long others are held, with up to half of it more at random, so that what was refused together
does not come back together. Far below every deadline that makes sense for a call."""

MAX_HELD: Final = 256
"""Answers that are held at the same time, some 30 KB each; those beyond are given at once. Sixteen
callers with sixteen calls at a time, or one that has no bound at all."""

MAX_CALLERS: Final = 10_000
"""Callers and networks that are told apart, about 3 MB."""


class Tarpit:
    """Decides whose refusals wait, and lets them wait.

    Attributes:
        held: Answers that are held now.
        held_before: Answers that were held since the start.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Draw = draw,
    ) -> None:
        """Measure with `now`, in seconds that never go back, and wait with `sleep`."""
        self.held = 0
        self.held_before = 0
        self._now = now
        self._sleep = sleep
        self._draw = draw
        self._patience = TokenBuckets(MAX_CALLERS)

    async def hold(self, call: Call, refusal: BaseException) -> None:
        """Return when `call` may be told its refusal: mostly at once.

        Only refusals for a rate or a credential wait: others are answers to a question that was
        worth asking. A heartbeat stream that is refused waits like anything else, and loses
        nothing: it was told to wait for longer.
        """
        if not isinstance(refusal, RateLimited | Unauthenticated):
            return
        caller = call.caller
        anonymous = caller.kind is CallerKind.ANONYMOUS
        who = network_of(call.context.peer()) if anonymous else caller.name
        if not self._patience.spend(who, 1, ANSWERED_PER_SECOND, self._now()):
            return
        if self.held >= MAX_HELD:
            return
        self.held += 1
        self.held_before += 1
        try:
            await self._sleep(HOLD_SECONDS * (1 + self._draw() / 2))
        finally:
            self.held -= 1
