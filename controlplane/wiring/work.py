"""Builds what gives work and takes it away: tasks, routes, drains, stops, rollouts by operators.

Constructor calls only, like `replica`, which calls it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from controlplane.api.context import May
from controlplane.api.drain import Drain as Shutdown
from controlplane.api.pagination import PageTokens
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper
from controlplane.api.v1.lifecycle_service import LifecycleService
from controlplane.api.v1.rollout_service import RolloutService
from controlplane.api.v1.routing_service import RoutingService
from controlplane.api.v1.task_service import TaskService
from controlplane.services.lifecycle.activating import Activating
from controlplane.services.lifecycle.drains import Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.lifecycle.lifecycle import Lifecycle
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.read_model import ReadModel
from controlplane.services.rollouts.rollouts import Rollouts
from controlplane.services.routing.routes import Routes
from controlplane.services.tasks.assignment import TaskAssigner
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.recovery import TaskRecovery
from controlplane.services.tasks.tasks import Tasks
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.drain_reconciler import DrainReconciler
from controlplane.tasks.task_dispatcher import TaskDispatcher
from fleetplane.v1 import (
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)


class WorkParts:
    """One replica's share of it."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        visible: VisibleLedger,
        read_model: ReadModel,
        clock: Clock,
        ids: IdSource,
        quotas: QuotaKeeper,
        page_tokens: PageTokens,
        keeper: StreamKeeper,
        shutdown: Shutdown,
    ) -> None:
        self._visible = visible
        self._read_model = read_model
        self._clock = clock
        self._tokens = page_tokens
        self._keeper = keeper
        self._shutdown = shutdown
        pin_ms = _ms(settings.session_pin_seconds)
        self._assigner = TaskAssigner(ledger, read_model, clock)
        self._recovery = TaskRecovery(
            visible,
            read_model,
            self._assigner,
            clock,
            accept_ms=_ms(settings.task_accept_seconds),
            retention_ms=_ms(settings.task_retention_seconds),
            pin_ms=pin_ms,
        )
        data = TaskData(ledger)
        self._delivery = TaskDelivery(visible, read_model, data, ids, assigner=self._assigner)
        self._tasks = Tasks(
            visible,
            read_model,
            ids,
            data,
            self._assigner,
            clock,
            max_waiting=settings.max_waiting_tasks,
            quotas=quotas,
        )
        self._leases = TaskLeases(visible, read_model, self._assigner, clock, pin_ms=pin_ms)
        self._rollouts = Rollouts(visible, read_model, ids, clock)
        self._drains = Drains(visible, read_model, clock, self._recovery)
        self.stops = EmergencyStops(
            visible,
            read_model,
            self._recovery,
            ids,
            clock,
            is_draining=shutdown.draining.is_set,
        )

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        read_model, clock = self._read_model, self._clock
        dispatcher = TaskDispatcher(
            self._assigner, self._recovery, self._delivery, read_model, clock
        )
        drains = DrainReconciler(self._drains, self.stops, read_model, clock)
        return (dispatcher.run, drains.run)

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the services about tasks, routes and rollouts."""
        tokens, keeper = self._tokens, self._keeper
        task = TaskService(self._tasks, self._leases, self._delivery, tokens, keeper)
        routing = RoutingService(Routes(self._visible, self._read_model), tokens)
        rollout = RolloutService(self._rollouts, tokens, keeper)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(task, server)
        routing_service_pb2_grpc.add_RoutingServiceServicer_to_server(routing, server)
        rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(rollout, server)

    def lifecycle_service(
        self, activating: Activating, guard: StreamGuard, may: May
    ) -> LifecycleService:
        """Return the service about the lives of agents, drains and stops."""
        lifecycle = Lifecycle(
            self._visible, self._read_model, activating, self._drains, self._recovery, self._clock
        )
        return LifecycleService(lifecycle, self._drains, self.stops, self._shutdown, guard, may)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
