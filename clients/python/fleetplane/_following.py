"""Watches that end by themselves: when the tasks, or the rollout, they follow have ended."""

from collections.abc import Callable, Iterable
from typing import Any

from fleetplane._calls import Caller
from fleetplane._enums import RolloutPhase, TaskState
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import rollout_service_pb2, task_service_pb2, watch_pb2

OpenTasks = Callable[[list[str]], Any]
OpenRollout = Callable[[str], Any]


class TaskWatch(Watch[task_service_pb2.FollowTasksResponse, task_service_pb2.Task]):
    """Up to 1,000 tasks: each as it is now, then after every change, until all have ended.

    Goes on where it was after any interruption. Of changes in quick succession the newest state
    is delivered; `task.hops` names every lease that came and went.
    """

    def __init__(
        self,
        open_at: OpenTasks,
        task_ids: Iterable[str],
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._pending = dict.fromkeys(task_ids, 0)
        self._closed = not self._pending

    @property
    def pending(self) -> tuple[str, ...]:
        """Ids of the tasks that have not ended, as far as was delivered."""
        return tuple(self._pending)

    def _open(self) -> Any:
        return self._open_at(list(self._pending))

    def _receive(self, message: task_service_pb2.FollowTasksResponse) -> watch_pb2.GoAway | None:
        match message.WhichOneof("event"):
            case "task" if self._is_news(message.task):
                self._ready.append(message.task)
            case "go_away":
                return message.go_away
            case _:
                pass  # a bookmark, or a state that was delivered before the stream broke
        return None

    def _is_news(self, task: task_service_pb2.Task) -> bool:
        held = self._pending.get(task.task_id)
        return held is not None and task.revision > held

    def _deliver(self, event: task_service_pb2.Task) -> None:
        self._pending[event.task_id] = event.revision
        if TaskState(event.state).ended:
            del self._pending[event.task_id]
            if not self._pending:
                self._closed = True
                self._drop()


class RolloutWatch(Watch[rollout_service_pb2.WatchRolloutResponse, rollout_service_pb2.Rollout]):
    """A rollout: as it is now, then after every change, until it has ended.

    Goes on where it was after any interruption.
    """

    def __init__(
        self,
        open_at: OpenRollout,
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._revision = 0
        self._rollout_id = ""

    def _open(self) -> Any:
        return self._open_at(self._rollout_id)

    def _receive(
        self, message: rollout_service_pb2.WatchRolloutResponse
    ) -> watch_pb2.GoAway | None:
        match message.WhichOneof("event"):
            case "rollout" if message.rollout.revision > self._revision:
                self._ready.append(message.rollout)
            case "go_away":
                return message.go_away
            case _:
                pass  # a bookmark, or a state that was delivered before the stream broke
        return None

    def _deliver(self, event: rollout_service_pb2.Rollout) -> None:
        self._revision = event.revision
        self._rollout_id = event.rollout_id
        if RolloutPhase(event.phase).ended:
            self._closed = True
            self._drop()
