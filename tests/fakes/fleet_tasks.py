# ruff: noqa: N802  # the names of the methods are those of the contract
"""Tasks of the control plane in memory: submitted, assigned to whoever listens, fenced, revoked."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

import grpc

from fleetplane.v1 import task_service_pb2 as pb
from fleetplane.v1 import task_service_pb2_grpc
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_registry import GO_AWAY, Service

HELD = {pb.TASK_STATE_ASSIGNED, pb.TASK_STATE_RUNNING}
ENDED = {pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELLED}


class TaskDesk:
    """What survives a restart about tasks, and the handles by which a test interferes."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.tasks: dict[str, pb.Task] = {}
        self.payloads: dict[str, bytes] = {}
        self.checkpoints: dict[str, bytes] = {}
        self.results: dict[str, bytes] = {}
        self.failures: list[pb.FailTaskRequest] = []
        self.accepted: list[tuple[str, int]] = []
        self.reports: list[pb.ReportProgressRequest] = []
        self.draining: set[str] = set()
        self.listening: list[str] = []
        self.generations: list[int] = []
        self.revocations: defaultdict[str, deque[pb.TaskRevocation]] = defaultdict(deque)
        self.slots = 1000
        self.assigning = True

    def put(self, kind: str = "", payload: bytes = b"", **spec: Any) -> str:
        """Submit a task; return its id."""
        task_id = f"task-{len(self.tasks) + 1}"
        self.tasks[task_id] = pb.Task(task_id=task_id, spec=pb.TaskSpec(kind=kind, **spec))
        self.payloads[task_id] = payload
        self.move(task_id, pb.TASK_STATE_PENDING)
        return task_id

    def state(self, task_id: str) -> int:
        """Return where a task is."""
        return self.tasks[task_id].state

    def move(
        self, task_id: str, state: pb.TaskState.ValueType, detail: str = "", reason: int = 0
    ) -> None:
        """Put a task into a state, and assign what waits."""
        task = self.tasks[task_id]
        task.state, task.detail, task.reason = state, detail, pb.TaskReason.ValueType(reason)
        self._touch(task)
        if self.assigning:
            self.assign()

    def _touch(self, task: pb.Task) -> None:
        self.plane.revision += 1
        task.revision = self.plane.revision
        self.plane.touch()

    def assign(self) -> None:
        """Give waiting tasks to instances that listen and have a free slot."""
        for task in self.tasks.values():
            if task.state != pb.TASK_STATE_PENDING:
                continue
            for instance_id in self.listening:
                held = sum(
                    one.instance_id == instance_id and one.state in HELD
                    for one in self.tasks.values()
                )
                if instance_id not in self.draining and held < self.slots:
                    self.give(task.task_id, instance_id)
                    break

    def give(self, task_id: str, instance_id: str) -> None:
        """Assign a task, under a new epoch."""
        task = self.tasks[task_id]
        task.instance_id, task.state = instance_id, pb.TASK_STATE_ASSIGNED
        task.epoch += 1
        self._touch(task)

    def fence(self, task_id: str) -> None:
        """Give the task to somebody else, without a word to its holder."""
        self.give(task_id, "somebody-else")

    def revoke(self, task_id: str, state: pb.TaskState.ValueType = pb.TASK_STATE_CANCELLED) -> None:
        """End the lease and tell its holder."""
        task = self.tasks[task_id]
        self.revocations[task.instance_id].append(
            pb.TaskRevocation(task_id=task_id, epoch=task.epoch)
        )
        self.move(task_id, state, "called off")

    def hold(self, lease: pb.TaskLease, *states: pb.TaskState.ValueType) -> pb.Task:
        """Return the task of a lease, or refuse the zombie."""
        task = self.tasks.get(lease.task_id)
        if task is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
        current = (task.instance_id, task.epoch) == (lease.instance_id, lease.epoch)
        if not current or task.state not in HELD | set(states):
            metadata = {"task_id": lease.task_id, "current_epoch": str(task.epoch)}
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_FENCED", metadata=metadata)
        return task


class TaskFake(Service, task_service_pb2_grpc.TaskServiceServicer):
    """The task service, without time."""

    def __init__(self, plane: Plane, desk: TaskDesk) -> None:
        super().__init__(plane)
        self.desk = desk

    def _submit(self, request: pb.SubmitTaskRequest) -> pb.Task:
        if known := self.plane.answers.get(request.request_id):
            task: pb.Task = known
            return task
        if not request.spec.agent_name and not request.spec.capabilities:
            violation = ("spec.agent_name", "is required without capabilities")
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(violation,)
            )
        task_id = self.desk.put(payload=request.payload)
        task = self.desk.tasks[task_id]
        task.spec.CopyFrom(request.spec)
        self.plane.answers[request.request_id] = task
        return task

    async def SubmitTask(self, request: Any, context: Any) -> Any:
        await self.enter("SubmitTask", context, request)
        try:
            return pb.SubmitTaskResponse(task=self._submit(request))
        except Refusal as refusal:
            await self.refuse(context, refusal)

    async def BatchSubmitTasks(self, request: Any, context: Any) -> Any:
        await self.enter("BatchSubmitTasks", context)
        response = pb.BatchSubmitTasksResponse()
        for one in request.tasks:
            try:
                response.results.add(task=self._submit(one))
            except Refusal as refusal:
                response.results.add(error=refusal.entry())
        return response

    async def _known(self, task_id: str, context: Any) -> pb.Task:
        if task_id not in self.desk.tasks:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND"))
        return self.desk.tasks[task_id]

    async def GetTask(self, request: Any, context: Any) -> Any:
        await self.enter("GetTask", context)
        task = await self._known(request.task_id, context)
        return pb.GetTaskResponse(
            task=task,
            payload=self.desk.payloads[task.task_id] if request.include_data else b"",
            result=self.desk.results.get(task.task_id, b"") if request.include_data else b"",
        )

    async def ListTasks(self, request: Any, context: Any) -> Any:
        await self.enter("ListTasks", context)
        tasks = [
            one
            for one in self.desk.tasks.values()
            if not request.states or one.state in request.states
        ]
        start, size = int(request.page_token or 0), request.page_size or 100
        end = start + size
        return pb.ListTasksResponse(
            tasks=tasks[start:end], next_page_token=str(end) if end < len(tasks) else ""
        )

    async def CancelTask(self, request: Any, context: Any) -> Any:
        await self.enter("CancelTask", context)
        task = await self._known(request.task_id, context)
        if task.state in HELD:
            self.desk.revoke(task.task_id)
        reason = pb.TASK_REASON_CANCELLED
        self.desk.move(task.task_id, pb.TASK_STATE_CANCELLED, request.reason, reason)
        return pb.CancelTaskResponse(task=task)

    async def FollowTasks(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.enter("FollowTasks", context)
        for task_id in request.task_ids:
            await self._known(task_id, context)
        told = dict.fromkeys(request.task_ids, -1)
        with self.stream("FollowTasks") as sent_away:
            while self.plane.sent_away == sent_away:
                revision = self.plane.revision
                for task_id in told:
                    task = self.desk.tasks[task_id]
                    if task.revision > told[task_id]:
                        told[task_id] = task.revision
                        yield pb.FollowTasksResponse(task=task)
                if all(self.desk.state(one) in ENDED for one in told):
                    return
                yield pb.FollowTasksResponse(bookmark=self.plane.position())
                if self.plane.revision == revision and self.plane.sent_away == sent_away:
                    await self.plane.changed()
            yield pb.FollowTasksResponse(go_away=GO_AWAY)

    async def WatchTasks(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.enter("WatchTasks", context)
        desk, me, told = self.desk, request.instance_id, set[tuple[str, int]]()
        desk.generations.append(request.generation)
        desk.listening.append(me)
        try:
            with self.stream("WatchTasks") as sent_away:
                desk.assign()
                opening = True
                while self.plane.sent_away == sent_away:
                    seen = asyncio.ensure_future(self.plane.changed())
                    for event in self._news(me, told):
                        yield event
                    if opening:
                        yield pb.WatchTasksResponse(bookmark=self.plane.position())
                    opening = False
                    await seen
                yield pb.WatchTasksResponse(go_away=GO_AWAY)
        finally:
            desk.listening.remove(me)

    def _news(self, me: str, told: set[tuple[str, int]]) -> list[pb.WatchTasksResponse]:
        desk, news = self.desk, []
        for task in desk.tasks.values():
            lease = (task.task_id, task.epoch)
            if task.instance_id == me and task.state in HELD and lease not in told:
                told.add(lease)
                assignment = pb.TaskAssignment(
                    task=task,
                    payload=desk.payloads[task.task_id],
                    checkpoint=desk.checkpoints.get(task.task_id, b""),
                    resumed=task.state == pb.TASK_STATE_RUNNING,
                )
                news.append(pb.WatchTasksResponse(assignment=assignment))
        while desk.revocations[me]:
            news.append(pb.WatchTasksResponse(revoked=desk.revocations[me].popleft()))
        return news

    async def _held(self, lease: Any, context: Any, *states: pb.TaskState.ValueType) -> pb.Task:
        try:
            return self.desk.hold(lease, *states)
        except Refusal as refusal:
            await self.refuse(context, refusal)

    async def AcceptTask(self, request: Any, context: Any) -> Any:
        await self.enter("AcceptTask", context)
        task = await self._held(request.lease, context)
        if task.state == pb.TASK_STATE_ASSIGNED:
            task.attempts += 1
        self.desk.accepted.append((task.task_id, task.epoch))
        self.desk.move(task.task_id, pb.TASK_STATE_RUNNING)
        return pb.AcceptTaskResponse(task=task)

    async def ReportProgress(self, request: Any, context: Any) -> Any:
        await self.enter("ReportProgress", context)
        task = await self._held(request.lease, context)
        self.desk.reports.append(request)
        if request.HasField("checkpoint"):
            self.desk.checkpoints[task.task_id] = request.checkpoint
        task.progress = request.progress
        self.desk.move(task.task_id, pb.TASK_STATE_RUNNING)
        return pb.ReportProgressResponse(task=task)

    async def CompleteTask(self, request: Any, context: Any) -> Any:
        await self.enter("CompleteTask", context)
        task = await self._held(request.lease, context, pb.TASK_STATE_SUCCEEDED)
        self.desk.results[task.task_id] = request.result
        self.desk.move(task.task_id, pb.TASK_STATE_SUCCEEDED)
        return pb.CompleteTaskResponse(task=task)

    async def FailTask(self, request: Any, context: Any) -> Any:
        await self.enter("FailTask", context)
        task = await self._held(request.lease, context)
        self.desk.failures.append(request)
        if request.release:
            task.attempts -= task.state == pb.TASK_STATE_RUNNING
            self.desk.move(task.task_id, pb.TASK_STATE_PENDING)
        elif request.permanent or task.attempts >= (task.spec.max_attempts or 3):
            reason = pb.TASK_REASON_AGENT_REFUSED if request.permanent else 3
            self.desk.move(task.task_id, pb.TASK_STATE_FAILED, request.detail, reason)
        else:
            self.desk.move(task.task_id, pb.TASK_STATE_PENDING, request.detail)
        return pb.FailTaskResponse(task=task)
