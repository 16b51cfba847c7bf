"""Waiting for what other processes do, of which nobody tells us."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

SOON_SECONDS: Final = 20.0
"""Ordinarily milliseconds; this long because the machine may be busy with other suites."""

_ASK_AGAIN_SECONDS: Final = 0.02


async def eventually(
    what: str,
    holds: Callable[[], bool | Awaitable[bool]],
    *,
    within: float = SOON_SECONDS,
) -> None:
    """Return once `holds` does; fail the test, quoting `what`, after `within` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        if loop.time() > deadline:
            pytest.fail(f"did not happen within {within:g} s: {what}")
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
