"""Tasks as the client offers them: submit, wait for results, follow, cancel."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Unpack

from fleetplane._connected import Connected
from fleetplane._enums import TaskState
from fleetplane._exceptions import (
    DeadlineExceeded,
    FleetError,
    TaskCancelled,
    TaskFailed,
    error_from_entry,
)
from fleetplane._following import TaskWatch
from fleetplane._task_spec import Data, TaskFields, TaskSubmission, submission
from fleetplane.v1 import task_service_pb2 as pb


class TaskCalls(Connected):
    """Small, durable pieces of work that the plane gives to agents.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. The handler of an agent
    takes the tasks: see `Agent.task`.
    """

    async def submit_task(
        self,
        kind: str = "",
        payload: Data = b"",
        *,
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[TaskFields],
    ) -> pb.Task:
        """Submit one task; it is assigned as soon as an agent has a free slot.

        Args:
            kind: which handler is meant, such as `summarize`.
            payload: what the handler needs: bytes, text, or anything that JSON can say.
            request_id: makes a retry safe: the same id within 10 minutes is the same task. Empty:
                a new one, which covers the retries of this call.
            timeout: see the class.
            **fields: who may take it and within which bounds; see `TaskSubmission`.

        Raises:
            InvalidArgument: see `violations`; for instance neither agent_name nor capabilities.
            LimitExceeded: too many tasks wait.
        """
        connection = self.connection
        request = submission(kind, payload, request_id, fields).to_message()
        request.namespace = self.namespace
        return (await connection.call(connection.tasks.SubmitTask, request, timeout)).task

    async def submit_tasks(
        self, submissions: Sequence[TaskSubmission], *, timeout: float | None = None
    ) -> list[pb.Task | FleetError]:
        """Submit 1-500 tasks in one call; each succeeds or fails by itself, in order."""
        connection = self.connection
        request = pb.BatchSubmitTasksRequest(
            namespace=self.namespace, tasks=[one.to_message() for one in submissions]
        )
        response = await connection.call(connection.tasks.BatchSubmitTasks, request, timeout)
        return [
            error_from_entry(one.error) if one.WhichOneof("outcome") == "error" else one.task
            for one in response.results
        ]

    async def get_task(
        self,
        task_id: str,
        *,
        include_data: bool = False,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.GetTaskResponse:
        """Return one task; with `include_data` also its payload, checkpoint and result.

        Raises:
            NotFound: no task has that id, or it ended too long ago (TASK_NOT_FOUND).
        """
        connection = self.connection
        request = pb.GetTaskRequest(
            namespace=self.namespace,
            task_id=task_id,
            include_data=include_data,
            min_revision=min_revision,
        )
        return await connection.call(connection.tasks.GetTask, request, timeout)

    async def list_tasks_page(
        self,
        *,
        states: Iterable[TaskState] = (),
        agent_name: str = "",
        agent_id: str = "",
        instance_id: str = "",
        submitter: str = "",
        session_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListTasksResponse:
        """Return one page of tasks, newest first; see `list_tasks`."""
        connection = self.connection
        request = pb.ListTasksRequest(
            namespace=self.namespace,
            states=[pb.TaskState.ValueType(state) for state in states],
            agent_name=agent_name,
            agent_id=agent_id,
            instance_id=instance_id,
            submitter=submitter,
            session_id=session_id,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.tasks.ListTasks, request, timeout)

    async def list_tasks(
        self,
        *,
        states: Iterable[TaskState] = (),
        agent_name: str = "",
        agent_id: str = "",
        instance_id: str = "",
        submitter: str = "",
        session_id: str = "",
        page_size: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Task]:
        """Iterate over tasks, newest first, page by page; all conditions must hold.

        Args:
            states: in one of these; empty: any.
            agent_name: wanted for, or held by, an agent of this name.
            agent_id: held by this agent, or was when it ended.
            instance_id: held by this process, or was when it ended.
            submitter: of this submitter.
            session_id: of this session.
            page_size: tasks per page, 1-1,000; 0 means 100.
            min_revision: wait until the answering replica has seen that revision.
            timeout: deadline of one page.
        """
        wanted = tuple(states)
        token = ""
        while True:
            page = await self.list_tasks_page(
                states=wanted,
                agent_name=agent_name,
                agent_id=agent_id,
                instance_id=instance_id,
                submitter=submitter,
                session_id=session_id,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
                timeout=timeout,
            )
            for task in page.tasks:
                yield task
            token = page.next_page_token
            if not token:
                return

    async def cancel_task(
        self, task_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.Task:
        """Cancel a task, whatever it is doing; idempotent.

        Raises:
            NotFound: no task has that id.
            FailedPrecondition: it has ended otherwise (INVALID_TRANSITION).
        """
        connection = self.connection
        request = pb.CancelTaskRequest(namespace=self.namespace, task_id=task_id, reason=reason)
        return (await connection.call(connection.tasks.CancelTask, request, timeout)).task

    def follow_tasks(self, task_ids: Iterable[str]) -> TaskWatch:
        """Follow 1-1,000 tasks: each as it is now, then after every change, until all have ended.

        Goes on after any interruption. Iterating raises NotFound if one of them does not exist.
        """
        connection = self.connection

        def open_at(wanted: list[str]) -> object:
            request = pb.FollowTasksRequest(namespace=self.namespace, task_ids=wanted)
            return connection.tasks.FollowTasks(request, metadata=connection.call.metadata)

        return TaskWatch(open_at, task_ids, caller=connection.call)

    async def run_task(
        self,
        kind: str = "",
        payload: Data = b"",
        *,
        wait: float | None = None,
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[TaskFields],
    ) -> bytes:
        """Submit a task and return its result; see `submit_task` and `task_result`.

        Args:
            kind: which handler is meant.
            payload: what the handler needs.
            wait: seconds to wait for the end; None: as long as it takes. A task that is not waited
                for goes on; give it a `deadline` if it must not.
            request_id: makes a retry safe.
            timeout: deadline of each call.
            **fields: who may take it and within which bounds; see `TaskSubmission`.

        Raises:
            TaskFailed: it failed for good.
            TaskCancelled: it was called off.
            DeadlineExceeded: it did not end within `wait` seconds.
            FleetError: it was not submitted.
        """
        task = await self.submit_task(
            kind, payload, request_id=request_id, timeout=timeout, **fields
        )
        return await self.task_result(task.task_id, wait=wait, timeout=timeout)

    async def task_result(
        self, task_id: str, *, wait: float | None = None, timeout: float | None = None
    ) -> bytes:
        """Wait for the end of a task and return its result.

        Args:
            task_id: which task.
            wait: seconds to wait for the end; None: as long as it takes.
            timeout: deadline of the call that reads the result.

        Raises:
            TaskFailed: it failed for good.
            TaskCancelled: it was called off.
            DeadlineExceeded: it did not end within `wait` seconds; it goes on.
            NotFound: no task has that id.
        """
        try:
            async with asyncio.timeout(wait), self.follow_tasks([task_id]) as watch:
                task = pb.Task()
                async for seen in watch:
                    task = seen
        except TimeoutError as error:
            raise DeadlineExceeded(f"task {task_id} did not end within {wait:g} s") from error
        match TaskState(task.state):
            case TaskState.SUCCEEDED:
                answer = await self.get_task(
                    task_id, include_data=True, min_revision=task.revision, timeout=timeout
                )
                return answer.result
            case TaskState.CANCELLED:
                raise TaskCancelled(task)
            case _:
                raise TaskFailed(task)
