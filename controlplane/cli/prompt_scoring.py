"""Runs a scorer over a data set: every item as often as wanted, several at a time."""

import asyncio
import importlib
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from controlplane.cli.outcomes import CommandFailed, WrongInput
from controlplane.cli.rendering import note
from fleetplane import PromptVersion, ScoredItem

REPORT_SECONDS: Final = 2.0
"""Between two reports of progress."""

_FIELDS: Final = frozenset({"score", "passed", "cost", "latency_ms"})

Scorer = Callable[..., Any]
"""`score(prompt, item, trial)`: a number 0-1, a bool, or a mapping with `score` and perhaps
`passed`, `cost` and `latency_ms`. May be asynchronous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one trial."""

    score: float
    passed: bool | None
    cost: float
    latency_ms: float


def load_scorer(name: str) -> Scorer:
    """Import `module:function`, also from the current directory.

    Raises:
        WrongInput: there is no such thing.
    """
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise WrongInput(f"--scorer {name}: must look like module:function")
    here = os.getcwd()  # noqa: PTH109  # what sys.path takes
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise WrongInput(f"--scorer {name}: {error}") from error
    if not callable(found):
        raise WrongInput(f"--scorer {name}: is not a function")
    scorer: Scorer = found
    return scorer


async def evaluate(
    scorer: Scorer,
    prompt: PromptVersion,
    items: Sequence[Mapping[str, Any]],
    *,
    trials: int,
    concurrency: int,
) -> list[ScoredItem]:
    """Score every item `trials` times, reporting progress on standard error.

    Raises:
        CommandFailed: the scorer fails, or answers something that is no score.
    """
    room = asyncio.Semaphore(concurrency)
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="scorer")
    progress = _Progress(prompt.version, len(items) * trials)

    async def one(item: Mapping[str, Any], number: int) -> Trial:
        async with room:
            trial = await _tried(scorer, threads, prompt, item, number)
        progress.step()
        return trial

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                [group.create_task(one(item, number)) for number in range(trials)] for item in items
            ]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # one is enough to stop, and to be told
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    progress.end()
    return [
        _item(item, [task.result() for task in tried])
        for item, tried in zip(items, tasks, strict=True)
    ]


async def _tried(
    scorer: Scorer,
    threads: ThreadPoolExecutor,
    prompt: PromptVersion,
    item: Mapping[str, Any],
    number: int,
) -> Trial:
    def timed() -> tuple[Any, float]:
        # In its thread: the wait for one is no latency of the prompt.
        begun = time.perf_counter()
        return scorer(prompt, item, number), time.perf_counter() - begun

    try:
        if inspect.iscoroutinefunction(scorer):
            begun = time.perf_counter()
            answer, took = await scorer(prompt, item, number), time.perf_counter() - begun
        else:
            answer, took = await asyncio.get_running_loop().run_in_executor(threads, timed)
    except Exception as error:  # whatever the scorer of somebody else does
        kind = type(error).__name__
        raise CommandFailed(f"the scorer failed at item {item['id']!r}: {kind}: {error}") from error
    return _read(answer, str(item["id"]), took * 1000)


def _read(answer: Any, item_id: str, took_ms: float) -> Trial:
    said = answer if isinstance(answer, Mapping) else {"score": answer}
    if "score" not in said or said.keys() - _FIELDS:
        raise CommandFailed(f"the scorer answered no score for item {item_id!r}: {answer!r}")
    try:
        score = float(said["score"])
        cost, latency_ms = float(said.get("cost", 0)), float(said.get("latency_ms", took_ms))
    except (TypeError, ValueError) as error:
        raise CommandFailed(f"the scorer answered {answer!r} for item {item_id!r}") from error
    if not 0 <= score <= 1 or not math.isfinite(cost) or cost < 0:
        raise CommandFailed(
            f"the scorer answered {answer!r} for item {item_id!r}: scores are 0-1, costs 0 or more"
        )
    passed = said.get("passed")
    return Trial(
        score=score,
        passed=None if passed is None else bool(passed),
        cost=cost,
        latency_ms=max(latency_ms, 0.0),
    )


def _item(item: Mapping[str, Any], tried: Sequence[Trial]) -> ScoredItem:
    told = [trial.passed for trial in tried if trial.passed is not None]
    return ScoredItem(
        item_id=str(item["id"]),
        scores=[trial.score for trial in tried],
        passed=told if len(told) == len(tried) else (),
        critical=bool(item.get("critical", False)),
        cost=sum(trial.cost for trial in tried),
        latency_ms=sum(trial.latency_ms for trial in tried) / len(tried),
    )


class _Progress:
    """Says how far it is, not more often than people can read."""

    def __init__(self, version: int, total: int) -> None:
        self._version = version
        self._total = total
        self._done = 0
        self._said_at = time.monotonic()

    def step(self) -> None:
        """Note one trial more."""
        self._done += 1
        now = time.monotonic()
        if now - self._said_at >= REPORT_SECONDS and self._done < self._total:
            self._said_at = now
            self._say()

    def end(self) -> None:
        """Say that it is over."""
        self._say()

    def _say(self) -> None:
        note(f"version {self._version}: {self._done:,} of {self._total:,} trials")
