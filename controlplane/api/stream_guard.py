"""Ends what lives on after its right has gone: streams, and calls that wait.

A call is judged when it begins; a stream may live for twenty minutes more. The guard judges all of
them again whenever something about rights or credentials changes, and every second, because rights
and credentials also end by themselves. Those that share credential, permission and namespace are
judged once. What is refused then ends with that refusal as its status.

A stream is not punished for the end of its credential: `StreamKeeper` sends it away in time, so
that its client comes back with the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from controlplane.api.context import Call, current_call
from controlplane.api.gate import Authorises
from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.refusals import CredentialExpired, PermissionDenied
from controlplane.domain.errors import DomainError, NotReady
from controlplane.domain.identity import Caller
from controlplane.services.hub import Hub, access_topic
from controlplane.services.ports import Clock

LOOK_SECONDS: Final = 1.0
"""At most this long between two looks: a fifth of the 5 s within which a stream must end."""

PAUSE_SECONDS: Final = 0.1
"""At least this long between two looks: a burst of changes costs ten of them a second."""

PAUSES_PER_LOOK: Final = 4
"""A pause is at least this many times as long as the look before it: whoever changes rights without
end makes everything be judged anew, and must not take more than a fifth of everybody's time."""

LONGEST_PAUSE_SECONDS: Final = 1.0
"""But no longer, because a stream must end within 5 s."""

AT_ONCE: Final = 500
"""Judged before others get their turn: half a millisecond while verdicts are remembered."""

Answer = TypeVar("Answer")
End = Callable[[DomainError], None]


@dataclass(frozen=True, slots=True)
class _Right:
    """What lets streams live on; the same for all that share it."""

    credential: str
    permission: Permission
    namespace: str
    confined: bool


class _Watched:
    """One stream or wait."""

    __slots__ = ("caller", "end", "waits")

    def __init__(self, caller: Caller, end: End, *, waits: bool) -> None:
        self.caller = caller
        self.end = end
        self.waits = waits


class StreamGuard:
    """Knows which streams live on which right. Belongs to one event loop."""

    def __init__(self, authoriser: Authorises, hub: Hub, clock: Clock) -> None:
        """Judge by `authoriser`, whenever `hub` tells about rights; credentials end by `clock`."""
        self._authoriser = authoriser
        self._hub = hub
        self._clock = clock
        self._watched: dict[_Right, set[_Watched]] = {}
        self.ended = 0
        """Streams and waits that were ended; for metrics."""

    @property
    def watched(self) -> int:
        """Streams and waits that are open; one that waits for its first message counts twice."""
        return sum(len(some) for some in self._watched.values())

    def seconds_left(self, caller: Caller) -> float | None:
        """Return for how long a caller's credential is still good; None: it does not end."""
        if not caller.expires_at_ms:
            return None
        return max(0.0, (caller.expires_at_ms - self._clock.store_ms()) / 1000)

    @contextmanager
    def watching(self, call: Call, end: End, *, waits: bool = False) -> Iterator[None]:
        """Call `end` with the refusal if the right of a call goes, until the block is left.

        Args:
            call: The call. While it was not let into a namespace, only its credential is judged.
            end: Ends the stream; called once. Must not raise.
            waits: The call is unary: it cannot be sent away, so the end of the credential ends it
                as well.
        """
        caller, entered = call.caller, bool(call.namespace)
        right = _Right(
            caller.credential,
            call.method.permission if entered else Permission.IDENTIFY,
            call.namespace if entered else EVERYWHERE,
            call.confined,
        )
        watched = _Watched(caller, end, waits=waits)
        self._watched.setdefault(right, set()).add(watched)
        try:
            yield
        finally:
            some = self._watched.get(right)
            if some is not None:
                some.discard(watched)
                if not some:
                    del self._watched[right]

    async def while_permitted(self, answer: Awaitable[Answer]) -> Answer:
        """Return the answer of the current call, which waits for something.

        Raises:
            DomainError: the right of the call went while it waited.
        """
        limit, loop = asyncio.timeout(None), asyncio.get_running_loop()
        refusals: list[DomainError] = []

        def end(refusal: DomainError) -> None:
            refusals.append(refusal)
            limit.reschedule(loop.time())

        try:
            async with limit:
                with self.watching(current_call(), end, waits=True):
                    return await answer
        except TimeoutError:
            if refusals and limit.expired():
                raise refusals[0] from None
            raise

    async def run(self) -> None:
        """Judge what is open, again and again, until cancelled."""
        with self._hub.subscribe((access_topic(),)) as news:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await news.wait()
                begun = self._clock.monotonic()
                await self.look()
                pause = PAUSES_PER_LOOK * (self._clock.monotonic() - begun)
                await self._clock.sleep(min(max(pause, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS))

    async def look(self) -> None:
        """Judge everything that is open once."""
        for count, right in enumerate(list(self._watched), start=1):
            some = self._watched.get(right)
            if some:
                self._judge(right, some)
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _judge(self, right: _Right, some: set[_Watched]) -> None:
        refusal = self._objection(right, next(iter(some)).caller)
        if refusal is None:
            return
        sent_away = isinstance(refusal, CredentialExpired)
        for watched in list(some):
            if watched.waits or not sent_away:
                some.discard(watched)
                self.ended += 1
                watched.end(refusal)

    def _objection(self, right: _Right, caller: Caller) -> DomainError | None:
        try:
            confined = self._authoriser.authorise(caller, right.permission, right.namespace)
        except NotReady:
            return None  # It says nothing about rights.
        except DomainError as refusal:
            return refusal
        if confined and not right.confined:
            # It was opened with a binding, and shows more than the agent itself.
            why = "a binding was taken away"
            return PermissionDenied(caller.name, right.permission, right.namespace, why)
        return None
