"""Keeps replicas that assign the same tasks out of each other's way.

Two replicas that pick the same task both write it, and one has worked for nothing. So a new task is
first of all the business of the replica that took it in, and whoever loses commits all the same
begins its passes at random among the first tasks that wait.
"""

import random
from collections.abc import Iterable
from typing import Final

from controlplane.domain.tasks import Task

LEFT_TO_OTHERS_MS: Final = 200
"""How long a new task is left to the replica that took it in and was woken at once. Longer than a
pass and its commit take under load; all that a task waits for if that replica dies."""

MOST_SPREAD: Final = 32
"""Tasks among which a pass may begin, of each submitter: enough for some ten replicas that fill one
queue's slots, few enough that nobody notices the order."""

SPREAD_SECONDS: Final = 1.0
"""How long after a lost commit passes still begin at random: whoever loses seldom keeps order."""


class Turns:
    """What one replica knows of a namespace; nobody is asked."""

    def __init__(self) -> None:
        self.spread = 0
        """A pass leaves out up to so many of the first tasks; 0: none."""
        self._lost_at = 0.0
        self._made_here: dict[str, int] = {}

    def take_in(self, task_ids: Iterable[str], now_ms: int) -> None:
        """Claim tasks that were submitted here."""
        self._made_here.update(dict.fromkeys(task_ids, now_ms))

    def is_of_others(self, task: Task, now_ms: int) -> bool:
        """Whether a task is so new that the replica that took it in is about to assign it."""
        if task.epoch or now_ms - task.created_at_ms >= LEFT_TO_OTHERS_MS:
            return False
        return task.task_id not in self._made_here

    def forget(self, now_ms: int) -> None:
        """Forget the tasks made here that belong to everybody by now; oldest first."""
        while self._made_here:
            task_id, at_ms = next(iter(self._made_here.items()))
            if now_ms - at_ms < LEFT_TO_OTHERS_MS:
                return
            del self._made_here[task_id]

    def left_out(self) -> int:
        """Return how many of the first tasks, or submitters, to leave out this time."""
        return random.randint(0, self.spread) if self.spread else 0  # noqa: S311 - spreads load

    def note_pass(self, *, lost: int, won: int, now: float) -> None:
        """Learn from a pass how much replicas are in each other's way; `now`: monotonic seconds."""
        if lost:
            self.spread = min(MOST_SPREAD, self.spread + lost)
            self._lost_at = now
        elif now - self._lost_at > SPREAD_SECONDS:
            self.spread = 0
        elif won and self.spread:
            self.spread -= 1
