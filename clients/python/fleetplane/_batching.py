"""Many concurrent calls of one process become few calls on the wire, without anybody asking for it.

The first item of a batch decides when it leaves: at once when the loop has run everything that is
ready, if nothing is in flight; otherwise when the batch is full, when a batch in flight comes back,
or after a millisecond, whichever is first. A lone caller therefore waits for nothing, and a crowd
fills batches by the very time its calls take.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from fleetplane._exceptions import FleetError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_LINGER: Final = 0.001
"""Longest time in seconds an item waits for company while other batches are in flight."""

Send = Callable[[Sequence[Item]], Awaitable[Sequence[Result | FleetError]]]
"""Sends one batch; answers in order, an error in the place of an item that was refused. As many
answers as items, or it raises."""


def _copied(error: Exception) -> Exception:
    """Return an own copy for every caller: a raised error collects the traceback of its raiser."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _give_up(waiters: Sequence["asyncio.Future[Any]"]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(Unavailable("the client was closed before the answer came"))


class Batcher(Generic[Item, Result]):
    """Collects the items of concurrent callers into batches.

    Args:
        send: sends one batch and answers every item. What it raises is raised to every caller of
            the batch; an error among its answers only to the caller of that item.
        max_items: items per batch.
    """

    __slots__ = ("_handle", "_in_flight", "_items", "_loop", "_max_items", "_send", "_waiters")

    def __init__(self, send: Send[Item, Result], *, max_items: int) -> None:
        self._send = send
        self._max_items = max_items
        self._loop = asyncio.get_running_loop()
        self._items: list[Item] = []
        self._waiters: list[asyncio.Future[Result]] = []
        self._handle: asyncio.Handle | None = None
        self._in_flight: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self._items and not self._in_flight

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Add an item; the future has its answer.

        Cancelling the future gives up the answer, not the item: it may have left already.
        """
        waiter: asyncio.Future[Result] = self._loop.create_future()
        self._items.append(item)
        self._waiters.append(waiter)
        if len(self._items) >= self._max_items:
            self._flush()
        elif self._handle is None:
            if self._in_flight:
                self._handle = self._loop.call_later(MAX_LINGER, self._flush)
            else:
                self._handle = self._loop.call_soon(self._flush)
        return waiter

    def _flush(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if not self._items:
            return
        items, self._items = self._items, []
        waiters, self._waiters = self._waiters, []
        task = self._loop.create_task(self._exchange(items, waiters), name="fleetplane-batch")
        self._in_flight.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._items:
            # The callers that were just answered run before this: they still join the batch.
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_soon(self._flush)

    async def _exchange(
        self, items: Sequence[Item], waiters: Sequence["asyncio.Future[Result]"]
    ) -> None:
        try:
            answers = await self._send(items)
        except asyncio.CancelledError:
            _give_up(waiters)
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, every caller must hear of it
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(_copied(error))
            return
        for waiter, answer in zip(waiters, answers, strict=True):
            if waiter.done():
                continue
            if isinstance(answer, FleetError):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)

    async def aclose(self) -> None:
        """Give up what waits and what is in flight: its callers get `Unavailable`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        _give_up(self._waiters)
        self._items, self._waiters = [], []
        tasks = tuple(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
