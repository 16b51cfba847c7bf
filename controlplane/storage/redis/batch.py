"""Makes operations of many callers share round trips.

A command to the store costs the daemon 70 us alone and 20 us in a pipeline. Operations that are
awaited in the same tick of the event loop leave together, and flights keep a distance, so batches
grow with the load. A lone caller, whose round trips take longer than that, waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from controlplane.domain.errors import StoreUnavailable

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# Operations per flight: 512 scripts keep the store busy for about 20 ms, and the others wait.
MAX_BATCH: Final = 512

# Flights at a time. With two, one batch is packed while the store works on the other; more would
# only make the batches smaller.
MAX_FLIGHTS: Final = 2

# Seconds between the starts of two flights. Callers of a busy replica come one by one, each a
# fraction of a millisecond after the other: without the distance every one would fly alone, at
# several times the cost. A caller by itself needs longer than this from one write to the next.
DISTANCE_SECONDS: Final = 0.003

# Callers that may wait; at 10,000 operations a second the last one waits for two seconds.
MAX_WAITING: Final = 20_000

# Seconds that one flight may take: the socket timeout (2) twice, for a repeated pipeline, and some.
FLIGHT_SECONDS: Final = 5.0


class MicroBatcher(Generic[Item, Outcome]):
    """Collects awaited operations into batches for `send`.

    `send` gets the items of one batch in the order of their submission and returns one outcome per
    item; an outcome that is an exception is raised to the caller of that item. If `send` raises,
    every caller of the batch gets that exception. Batches may overlap in time, up to `max_flights`.
    They start at least `distance_seconds` apart.

    An async context manager: leaving it waits for the flights that are under way.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sequence[Outcome | Exception]]],
        *,
        max_batch: int = MAX_BATCH,
        max_flights: int = MAX_FLIGHTS,
        max_waiting: int = MAX_WAITING,
        distance_seconds: float = DISTANCE_SECONDS,
        flight_seconds: float = FLIGHT_SECONDS,
    ) -> None:
        self._send = send
        self._max_batch = max_batch
        self._max_flights = max_flights
        self._max_waiting = max_waiting
        self._flight_seconds = flight_seconds
        self._distance_seconds = distance_seconds
        self._next_start = 0.0
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._tick: asyncio.Handle | None = None
        self._closed = False

    async def submit(self, item: Item) -> Outcome:
        """Return the outcome of one item.

        A caller that is cancelled before its batch left takes its item with it; later, the item is
        carried out and its outcome dropped. Nobody else notices either way.

        Raises:
            StoreUnavailable: too many callers wait, the flight took too long, or this is closed.
        """
        if self._closed:
            raise StoreUnavailable("this replica has closed its connection to the store")
        if len(self._waiting) >= self._max_waiting:
            raise StoreUnavailable("too many operations wait for the store")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((item, future))
        self._board(loop)
        return await future

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuse new operations and wait for those under way; each flight has its deadline."""
        self._closed = True
        while self._waiting or self._flights:
            self._depart()
            if self._flights:
                await asyncio.wait(self._flights)

    def _board(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a flight start as soon as one may, if somebody waits for it."""
        if self._tick is not None or not self._waiting or len(self._flights) >= self._max_flights:
            return
        if loop.time() >= self._next_start:
            self._tick = loop.call_soon(self._depart)
        else:
            self._tick = loop.call_at(self._next_start, self._depart)

    def _depart(self) -> None:
        """Start as many flights as there is work and room for."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._next_start = asyncio.get_running_loop().time() + self._distance_seconds
        while self._waiting and len(self._flights) < self._max_flights:
            count = min(len(self._waiting), self._max_batch)
            batch = [pair for pair in islice(self._waiting, count) if not pair[1].done()]
            for _ in range(count):
                self._waiting.popleft()
            if batch:
                flight = asyncio.create_task(self._fly(batch), name="store-batch")
                self._flights.add(flight)
                flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._board(asyncio.get_running_loop())

    async def _fly(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            async with asyncio.timeout(self._flight_seconds):
                outcomes = await self._send([item for item, _ in batch])
        except TimeoutError:
            outcomes = [StoreUnavailable() for _ in batch]
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to the callers, who await it
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
