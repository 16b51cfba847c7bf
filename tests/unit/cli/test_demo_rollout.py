import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from controlplane.cli.demo_agent import TASK_KIND
from controlplane.cli.demo_rollout import _worth_a_line, _wrong
from controlplane.cli.demo_traffic import SESSIONS, Traffic
from fleetplane import FleetError, TaskState, TaskSubmission, Unavailable
from fleetplane.v1 import rollout_service_pb2
from fleetplane.v1 import task_service_pb2 as pb


class Ends:
    """A watch in which every task ends at once, in one of the given states."""

    def __init__(self, ids: Sequence[str], state: pb.TaskState.ValueType) -> None:
        self._tasks = [pb.Task(task_id=one, state=state) for one in ids]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def __aiter__(self) -> AsyncIterator[pb.Task]:
        for task in self._tasks:
            yield pb.Task(task_id=task.task_id, state=pb.TASK_STATE_RUNNING)
            yield task


class EagerFleet:
    """Takes tasks, refuses the first of each round, and ends the others."""

    def __init__(self, state: pb.TaskState.ValueType) -> None:
        self.rounds: list[Sequence[TaskSubmission]] = []
        self.came = asyncio.Event()
        self._state = state

    async def submit_tasks(self, tasks: Sequence[TaskSubmission]) -> list[pb.Task | FleetError]:
        self.rounds.append(tasks)
        if len(self.rounds) == 2:
            self.came.set()
        made: list[pb.Task | FleetError] = [Unavailable("no")]
        made += [pb.Task(task_id=f"{len(self.rounds)}-{n}") for n in range(1, len(tasks))]
        return made

    def follow_tasks(self, ids: Sequence[str]) -> Ends:
        return Ends(ids, self._state)


async def flowed(state: pb.TaskState.ValueType) -> tuple[Traffic, EagerFleet]:
    fleet: Any = EagerFleet(state)
    traffic = Traffic(fleet, "researcher", "run")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(traffic.flow())
        await fleet.came.wait()
        traffic.stop()
    return traffic, fleet


async def test_every_task_is_followed_to_its_end() -> None:
    traffic, fleet = await flowed(pb.TASK_STATE_SUCCEEDED)
    assert (traffic.submitted, traffic.refused) == (2 * (SESSIONS - 1), 2)
    assert traffic.ended[TaskState.SUCCEEDED] == traffic.submitted
    assert traffic.waiting == 0
    assert all(one.kind == TASK_KIND for one in fleet.rounds[0])


async def test_a_session_lasts_for_some_rounds_and_then_another_one_comes() -> None:
    _, fleet = await flowed(pb.TASK_STATE_SUCCEEDED)
    first, second = ([one.session_id for one in tasks] for tasks in fleet.rounds[:2])
    assert len(set(first)) == SESSIONS
    assert 0 < len(set(second) - set(first)) < SESSIONS


async def test_a_refused_round_ends_the_demo() -> None:
    fleet: Any = EagerFleet(pb.TASK_STATE_SUCCEEDED)

    async def refuse(_: Sequence[TaskSubmission]) -> list[pb.Task | FleetError]:
        raise Unavailable("nobody answers")

    fleet.submit_tasks = refuse
    with pytest.raises(Unavailable):
        async with asyncio.timeout(20):
            await Traffic(fleet, "researcher", "run").flow()


def test_work_that_is_done_twice_is_seen() -> None:
    traffic = Traffic(Any, "researcher", "run")  # type: ignore[arg-type]  # never called
    for task_id in ("t1", "t2", "t1"):
        traffic.ran(task_id)
    assert traffic.twice == 1


def ended(phase: rollout_service_pb2.RolloutPhase.ValueType) -> rollout_service_pb2.Rollout:
    return rollout_service_pb2.Rollout(to_version="x", phase=phase)


def test_a_demo_says_what_did_not_go_as_it_must() -> None:
    back = ended(rollout_service_pb2.ROLLOUT_PHASE_ROLLED_BACK)
    done = ended(rollout_service_pb2.ROLLOUT_PHASE_SUCCEEDED)
    traffic = Traffic(Any, "researcher", "run")  # type: ignore[arg-type]  # never called
    assert _wrong(traffic, back, done) == []
    traffic.submitted = 1
    for task_id in ("t1", "t1"):
        traffic.ran(task_id)
    assert [one.split()[0:3] for one in _wrong(traffic, done, back)] == [
        ["x", "was", "not"],
        ["x", "was", "not"],
        ["1", "tasks", "were"],
        ["1", "tasks", "were"],
    ]


def test_counts_alone_are_not_worth_a_line() -> None:
    before = ended(rollout_service_pb2.ROLLOUT_PHASE_PROGRESSING)
    now = ended(rollout_service_pb2.ROLLOUT_PHASE_PROGRESSING)
    now.canary.total = 7
    assert not _worth_a_line(before, now)
    now.step_index = 1
    assert _worth_a_line(before, now)
