"""The work of a demo of rollouts: a steady stream of tasks, and what became of them."""

import asyncio
import itertools
from collections import Counter
from typing import Final

from controlplane.cli.demo_agent import TASK_KIND
from fleetplane import FleetClient, FleetError, TaskState, TaskSubmission

SESSIONS: Final = 20
"""Sessions at the same time; each has one task in every round."""

ROUND: Final = 0.5
"""Seconds between two rounds."""

LENGTH: Final = 4
"""Tasks of one session: new sessions come all the time, so that new weights show quickly."""

ATTEMPTS: Final = 5
"""Attempts of a task: a version that fails three of ten tasks hardly loses one for good."""

REST: Final = 30.0
"""Seconds that tasks may take to end once no more are submitted."""


class Traffic:
    """Submits tasks to an agent until told to stop, and follows every one of them to its end.

    Args:
        client: an open client; it must outlive the traffic.
        agent_name: who gets the tasks.
        run: identity of the demo, part of the names of its sessions.
    """

    def __init__(self, client: FleetClient, agent_name: str, run: str) -> None:
        self.submitted = 0
        """Tasks that the plane has accepted."""
        self.refused = 0
        """Tasks that it has not."""
        self.ended: Counter[TaskState] = Counter()
        """Tasks that have ended, by how."""
        self._client = client
        self._agent_name = agent_name
        self._run = run
        self._stop = asyncio.Event()
        self._successes: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Tasks that have not ended yet; at the end: lost ones."""
        return self.submitted - self.ended.total()

    @property
    def twice(self) -> int:
        """Tasks that were carried out more than once with success."""
        return sum(count > 1 for count in self._successes.values())

    def ran(self, task_id: str) -> None:
        """Note that an agent has carried out a task with success, as the agent says."""
        self._successes[task_id] += 1

    def stop(self) -> None:
        """Submit no more."""
        self._stop.set()

    async def flow(self) -> None:
        """Submit until told to stop, then wait for what is under way, for so long at most."""
        following: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        try:
            for turn in itertools.count():
                if self._stop.is_set():
                    break
                due = loop.time() + ROUND
                following.add(loop.create_task(self._round(turn), name="demo-round"))
                following = {one for one in following if not _finished(one)}
                await self._pause(due - loop.time())
            if following:
                await asyncio.wait(following, timeout=REST)
        finally:
            for one in following:
                one.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _round(self, turn: int) -> None:
        """Submit one task of every session, and follow them to their ends."""
        answers = await self._client.submit_tasks(
            [
                TaskSubmission(
                    kind=TASK_KIND,
                    payload=f"subject {turn}-{number}",
                    agent_name=self._agent_name,
                    session_id=f"{self._run}-{number}-{(turn + number) // LENGTH}",
                    submitter="demo",
                    max_attempts=ATTEMPTS,
                )
                for number in range(SESSIONS)
            ]
        )
        ids = [one.task_id for one in answers if not isinstance(one, FleetError)]
        self.submitted += len(ids)
        self.refused += len(answers) - len(ids)
        if not ids:
            return
        async with self._client.follow_tasks(ids) as watch:
            async for task in watch:
                state = TaskState(task.state)
                if state.ended:
                    self.ended[state] += 1


def _finished(round_: "asyncio.Task[None]") -> bool:
    """Return whether a round is over; one that failed ends the demo."""
    if not round_.done():
        return False
    round_.result()
    return True
