"""Tasks; the contract is protos/fleetplane/v1/task_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.requests import reason_from_proto, required
from controlplane.api.convert.tasks import (
    delivery_to_proto,
    filter_from_proto,
    followed_from_proto,
    followed_to_proto,
    lease_from_proto,
    submission_from_proto,
    submissions_from_proto,
    task_to_proto,
)
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.status import entry_error_of
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.identity import namespace_of
from controlplane.domain.tasks import Task
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.tasks import Submission, TaskContents, Tasks
from fleetplane.v1 import task_service_pb2 as pb
from fleetplane.v1 import task_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_NO_CONTENTS = TaskContents(payload=b"", checkpoint=b"", result=b"")


class TaskService(pb_grpc.TaskServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        tasks: Tasks,
        leases: TaskLeases,
        delivery: TaskDelivery,
        tokens: PageTokens,
        keeper: StreamKeeper,
    ) -> None:
        self._tasks = tasks
        self._leases = leases
        self._delivery = delivery
        self._tokens = tokens
        self._keeper = keeper

    async def SubmitTask(
        self, request: pb.SubmitTaskRequest, context: Context
    ) -> pb.SubmitTaskResponse:
        namespace = namespace_of(request.namespace)
        submission = submission_from_proto(request)
        task = await self._tasks.submit(namespace, submission, caller=current_caller())
        return pb.SubmitTaskResponse(task=task_to_proto(task, namespace))

    async def BatchSubmitTasks(
        self, request: pb.BatchSubmitTasksRequest, context: Context
    ) -> pb.BatchSubmitTasksResponse:
        namespace = namespace_of(request.namespace)
        entries = submissions_from_proto(request)
        valid = [entry for entry in entries if isinstance(entry, Submission)]
        outcomes = iter(await self._tasks.submit_many(namespace, valid, caller=current_caller()))
        answers = [next(outcomes) if isinstance(e, Submission) else e for e in entries]
        return pb.BatchSubmitTasksResponse(results=[_result(one, namespace) for one in answers])

    async def WatchTasks(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchTasksRequest, context: Context
    ) -> None:
        namespace = namespace_of(request.namespace)
        instance_id = required(request.instance_id, "instance_id")
        if not request.generation:
            raise InvalidArgument.of("generation", "is required")
        # An instance that ends its stream is cancelled work for the source, one that is sent away
        # is not: it comes back, and keeps being given tasks.
        await run_stream(
            self._delivery.deliver(namespace, instance_id, request.generation),
            context,
            render=lambda event: delivery_to_proto(event, namespace),
            go_away=lambda last: pb.WatchTasksResponse(go_away=last),
            keeper=self._keeper,
        )

    async def AcceptTask(
        self, request: pb.AcceptTaskRequest, context: Context
    ) -> pb.AcceptTaskResponse:
        namespace, lease = namespace_of(request.namespace), lease_from_proto(request.lease)
        task = await self._leases.accept(namespace, lease, caller=current_caller())
        return pb.AcceptTaskResponse(task=task_to_proto(task, namespace))

    async def ReportProgress(
        self, request: pb.ReportProgressRequest, context: Context
    ) -> pb.ReportProgressResponse:
        namespace, lease = namespace_of(request.namespace), lease_from_proto(request.lease)
        task = await self._leases.progress(
            namespace,
            lease,
            progress=request.progress,
            message=request.message,
            checkpoint=request.checkpoint if request.HasField("checkpoint") else None,
            caller=current_caller(),
        )
        return pb.ReportProgressResponse(task=task_to_proto(task, namespace))

    async def CompleteTask(
        self, request: pb.CompleteTaskRequest, context: Context
    ) -> pb.CompleteTaskResponse:
        namespace, lease = namespace_of(request.namespace), lease_from_proto(request.lease)
        task = await self._leases.complete(
            namespace, lease, result=request.result, caller=current_caller()
        )
        return pb.CompleteTaskResponse(task=task_to_proto(task, namespace))

    async def FailTask(self, request: pb.FailTaskRequest, context: Context) -> pb.FailTaskResponse:
        namespace, lease = namespace_of(request.namespace), lease_from_proto(request.lease)
        if request.permanent and request.release:
            raise InvalidArgument.of("release", "must not be set together with permanent")
        task = await self._leases.fail(
            namespace,
            lease,
            detail=request.detail,
            permanent=request.permanent,
            release=request.release,
            caller=current_caller(),
        )
        return pb.FailTaskResponse(task=task_to_proto(task, namespace))

    async def CancelTask(
        self, request: pb.CancelTaskRequest, context: Context
    ) -> pb.CancelTaskResponse:
        namespace = namespace_of(request.namespace)
        task = await self._tasks.cancel(
            namespace,
            required(request.task_id, "task_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.CancelTaskResponse(task=task_to_proto(task, namespace))

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        namespace, task_id = namespace_of(request.namespace), required(request.task_id, "task_id")
        task = await self._tasks.get(namespace, task_id, min_revision=request.min_revision)
        contents = _NO_CONTENTS
        if request.include_data:
            contents = await self._tasks.contents(namespace, task_id)
        return pb.GetTaskResponse(
            task=task_to_proto(task, namespace),
            payload=contents.payload,
            checkpoint=contents.checkpoint,
            result=contents.result,
        )

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: Context
    ) -> pb.ListTasksResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._tasks.page(
            namespace,
            filter_from_proto(request),
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListTasksResponse(
            tasks=[task_to_proto(task, namespace) for task in page.tasks],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def FollowTasks(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.FollowTasksRequest, context: Context
    ) -> None:
        namespace = namespace_of(request.namespace)
        await run_stream(
            self._tasks.follow(namespace, followed_from_proto(request.task_ids)),
            context,
            render=lambda event: followed_to_proto(event, namespace),
            go_away=lambda last: pb.FollowTasksResponse(go_away=last),
            keeper=self._keeper,
        )


def _result(answer: Task | DomainError, namespace: str) -> pb.SubmitTaskResult:
    if isinstance(answer, DomainError):
        return pb.SubmitTaskResult(error=entry_error_of(answer))
    return pb.SubmitTaskResult(task=task_to_proto(answer, namespace))
