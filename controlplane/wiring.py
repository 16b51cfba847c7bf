"""Builds the use cases of one replica over its ports, the gRPC services over them, and the loops.

Kept apart from `app`, which opens what the ports need and owns what runs. Constructor calls only,
in the order of their dependencies.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import grpc

from controlplane.access_wiring import AccessParts
from controlplane.api.drain import Drain as Shutdown
from controlplane.api.pagination import PageTokens
from controlplane.api.streams import StreamKeeper, StreamLimits
from controlplane.api.v1.config_service import ConfigService
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.api.v1.lifecycle_service import LifecycleService
from controlplane.api.v1.registry_service import RegistryService
from controlplane.api.v1.rollout_service import RolloutService
from controlplane.api.v1.routing_service import RoutingService
from controlplane.api.v1.task_service import TaskService
from controlplane.approvals_wiring import ApprovalParts
from controlplane.domain.audit.chain import NO_KEYS, Keys
from controlplane.domain.liveness import LivenessSettings
from controlplane.governance_wiring import GovernanceParts, Ground
from controlplane.policy_wiring import PolicyParts, policy_defaults
from controlplane.services.access.ports import (
    CertificateAuthority,
    CertificateReader,
    TokenVerifier,
)
from controlplane.services.approvals.notices import Webhook
from controlplane.services.audit.attribution import AttributedLedger
from controlplane.services.audit.ports import AuditLog
from controlplane.services.beats import BeatIntake
from controlplane.services.configs import Configs
from controlplane.services.convergence import Convergence
from controlplane.services.discovery import Discovery
from controlplane.services.expiry import Expiry
from controlplane.services.extra_schemas import ExtraSchemas
from controlplane.services.hub import Hub, acknowledgements_topic
from controlplane.services.lifecycle.activation import PolicyActivation
from controlplane.services.lifecycle.commands import Commands
from controlplane.services.lifecycle.drains import Drains
from controlplane.services.lifecycle.emergency_stops import EmergencyStops
from controlplane.services.lifecycle.lifecycle import Lifecycle
from controlplane.services.liveness import Liveness
from controlplane.services.policies.decision_log_port import DecisionLog
from controlplane.services.ports import BeatLog, ChangeFeed, IdSource, Ledger
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registry import Registry
from controlplane.services.rollouts.reconciler import RolloutReconciler
from controlplane.services.rollouts.rollouts import Rollouts
from controlplane.services.routing.routes import Routes
from controlplane.services.store_clock import LearningClock
from controlplane.services.tasks.assignment import TaskAssigner
from controlplane.services.tasks.data import TaskData
from controlplane.services.tasks.delivery import TaskDelivery
from controlplane.services.tasks.leases import TaskLeases
from controlplane.services.tasks.recovery import TaskRecovery
from controlplane.services.tasks.tasks import Tasks
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.beat_flusher import BeatFlusher
from controlplane.tasks.drain_reconciler import DrainReconciler
from controlplane.tasks.follower import Follower
from controlplane.tasks.liveness_sweeper import LivenessSweeper
from controlplane.tasks.rollout_reconciler import RolloutLoop
from controlplane.tasks.task_dispatcher import TaskDispatcher
from fleetplane.v1 import (
    config_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    registry_service_pb2_grpc,
    rollout_service_pb2_grpc,
    routing_service_pb2_grpc,
    task_service_pb2_grpc,
)

Loop = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs as long as the replica does."""

OnTransition = Callable[[str, str], None]
"""Called with rollout id and point, directly before and after each commit of a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a replica stands on."""

    ledger: Ledger
    feed: ChangeFeed
    beat_log: BeatLog
    audit_log: AuditLog
    decision_log: DecisionLog
    clock: LearningClock
    ids: IdSource
    verifier: TokenVerifier | None = None
    """Of tokens of an identity provider; None: there is none."""
    reader: CertificateReader | None = None
    """Of client certificates; None: no port demands them."""
    authority: CertificateAuthority | None = None
    """Signs the certificates of agents; None: nobody does."""
    webhook: Webhook | None = None
    """Is told of approvals; None: nobody is."""
    audit_keys: Keys = NO_KEYS
    """What the audit is sealed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What was built."""

    add_services: Callable[[grpc.aio.Server], None]
    loops: tuple[Loop, ...]
    caught_up: asyncio.Event
    """Set once the first snapshot is loaded."""
    access: AccessParts
    """Who may do what."""
    confirm: Callable[[], None]
    """To be called whenever the store has answered."""


def build_replica(
    settings: Settings,
    ports: Ports,
    shutdown: Shutdown,
    secret: bytes,
    on_transition: OnTransition,
) -> Replica:
    """Build everything that serves; nothing runs yet."""
    return _Builder(settings, ports, shutdown, secret, on_transition).build()


class _Builder:
    def __init__(
        self,
        settings: Settings,
        ports: Ports,
        shutdown: Shutdown,
        secret: bytes,
        on_transition: OnTransition,
    ) -> None:
        ports = replace(ports, ledger=AttributedLedger(ports.ledger))
        self._settings = settings
        self._shutdown = shutdown
        self._tokens = PageTokens(secret)
        self._on_transition = on_transition
        self._ports = ports
        self._clock = ports.clock
        self._liveness_settings = liveness_settings(settings)
        self._hub = Hub()
        self._read_model = ReadModel(self._hub, policy_defaults=policy_defaults(settings))
        self._visible = VisibleLedger(ports.ledger, self._read_model, ports.feed.hint)
        self._access = AccessParts(
            settings,
            ledger=ports.ledger,
            decision_log=ports.decision_log,
            visible=self._visible,
            read_model=self._read_model,
            hub=self._hub,
            clock=ports.clock,
            ids=ports.ids,
            page_tokens=self._tokens,
            verifier=ports.verifier,
            reader=ports.reader,
            authority=ports.authority,
        )
        self._quotas = self._access.quotas
        self._keeper = StreamKeeper(
            drain=shutdown,
            limits=StreamLimits(max_age_seconds=settings.max_stream_age_seconds),
            guard=self._access.guard,
        )
        self._activation = PolicyActivation(ports.clock)
        self._approvals = ApprovalParts(
            settings,
            ledger=ports.ledger,
            visible=self._visible,
            read_model=self._read_model,
            clock=ports.clock,
            ids=ports.ids,
            page_tokens=self._tokens,
            keeper=self._keeper,
            guard=self._access.guard,
            shutdown=shutdown,
            may=self._access.may,
            activation=self._activation,
            webhook=ports.webhook,
        )
        self._policies = PolicyParts(
            settings,
            ports.decision_log,
            ledger=ports.ledger,
            visible=self._visible,
            read_model=self._read_model,
            hub=self._hub,
            clock=ports.clock,
            new_ids=ports.ids,
            quotas=self._quotas,
            page_tokens=self._tokens,
            keeper=self._keeper,
            approvals=self._approvals.opening,
        )
        self._governance = GovernanceParts(
            Ground(
                settings=settings,
                ledger=ports.ledger,
                audit_log=ports.audit_log,
                audit_keys=ports.audit_keys,
                visible=self._visible,
                read_model=self._read_model,
                hub=self._hub,
                clock=ports.clock,
                ids=ports.ids,
                quotas=self._quotas,
                page_tokens=self._tokens,
                keeper=self._keeper,
                guard=self._access.guard,
            )
        )
        self._intake = BeatIntake(ports.clock, self._liveness_settings, self._acknowledged)
        self._assigner = TaskAssigner(ports.ledger, self._read_model, ports.clock)
        self._recovery = TaskRecovery(
            self._visible,
            self._read_model,
            self._assigner,
            ports.clock,
            accept_ms=_ms(settings.task_accept_seconds),
            retention_ms=_ms(settings.task_retention_seconds),
            pin_ms=_ms(settings.session_pin_seconds),
        )
        self._task_data = TaskData(ports.ledger)
        self._delivery = TaskDelivery(
            self._visible,
            self._read_model,
            self._task_data,
            ports.ids,
            assigner=self._assigner,
        )
        self._drains = Drains(self._visible, self._read_model, ports.clock, self._recovery)
        self._stops = EmergencyStops(
            self._visible,
            self._read_model,
            self._recovery,
            ports.ids,
            ports.clock,
            is_draining=self._shutdown.draining.is_set,
        )
        self._liveness = Liveness(
            self._visible,
            self._read_model,
            self._intake,
            self._activation,
            self._liveness_settings,
            ports.clock,
        )

    def build(self) -> Replica:
        registry = self._registry_service()
        config = self._config_service()
        lifecycle = self._lifecycle_service()
        task = self._task_service()
        routing = RoutingService(Routes(self._visible, self._read_model), self._tokens)
        rollout = self._rollout_service()

        def add_services(server: grpc.aio.Server) -> None:
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
            config_service_pb2_grpc.add_ConfigServiceServicer_to_server(config, server)
            lifecycle_service_pb2_grpc.add_LifecycleServiceServicer_to_server(lifecycle, server)
            task_service_pb2_grpc.add_TaskServiceServicer_to_server(task, server)
            routing_service_pb2_grpc.add_RoutingServiceServicer_to_server(routing, server)
            rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(rollout, server)
            self._access.add_services(server)
            self._governance.add_services(server)
            self._approvals.add_services(server)
            self._policies.add_services(server)

        loops, caught_up = self._loops()
        return Replica(
            add_services=add_services,
            loops=loops,
            caught_up=caught_up,
            access=self._access,
            confirm=lambda: self._read_model.confirm(self._clock.monotonic()),
        )

    def _acknowledged(self, namespace: str, _agent_id: str) -> None:
        self._hub.notify((acknowledgements_topic(namespace),))

    def _loops(self) -> tuple[tuple[Loop, ...], asyncio.Event]:
        ports, read_model, clock = self._ports, self._read_model, self._clock
        follower = Follower(ports.feed, read_model, clock, on_loaded=self._restore_beats)
        flusher = BeatFlusher(self._intake, ports.beat_log, read_model, clock)
        expiry = Expiry(ports.ledger, ports.beat_log, read_model, self._liveness_settings, clock)
        sweeper = LivenessSweeper(expiry, flusher, read_model, clock)
        drains = DrainReconciler(self._drains, self._stops, read_model, clock)
        dispatcher = TaskDispatcher(
            self._assigner, self._recovery, self._delivery, read_model, clock
        )
        reconciler = RolloutReconciler(
            ports.ledger,
            read_model,
            self._activation,
            clock,
            mass_silence=expiry.is_holding_back,
            on_transition=self._on_transition,
        )
        rollouts = RolloutLoop(reconciler, read_model, clock)
        loops = (
            follower.run,
            flusher.run,
            sweeper.run,
            dispatcher.run,
            drains.run,
            rollouts.run,
            *self._access.loops(),
            *self._governance.loops(),
            *self._approvals.loops(),
            *self._policies.loops(),
        )
        return loops, follower.caught_up

    async def _restore_beats(self, namespace: str, view: NamespaceView) -> None:
        self._intake.restore(view, await self._ports.beat_log.deadlines(namespace))

    def _registry_service(self) -> RegistryService:
        heartbeat = HeartbeatStream(
            self._intake,
            self._liveness,
            self._read_model,
            self._liveness_settings,
            self._keeper,
            commands=Commands(self._read_model, self._clock),
            stops=self._stops,
            budget_of=self._access.limits.beat_budget if self._settings.authenticates else None,
        )
        return RegistryService(
            Registry(
                self._visible,
                self._read_model,
                self._ports.ids,
                self._liveness_settings,
                quotas=self._quotas,
            ),
            Discovery(self._read_model),
            self._liveness,
            heartbeat,
            self._read_model,
            self._clock,
            self._liveness_settings,
            self._tokens,
            self._keeper,
        )

    def _config_service(self) -> ConfigService:
        configs = Configs(self._visible, self._read_model, self._clock, self._quotas)
        convergence = Convergence(
            self._read_model, self._clock, is_draining=self._shutdown.draining.is_set
        )
        return ConfigService(
            configs,
            ExtraSchemas(self._visible, configs),
            convergence,
            self._read_model,
            self._tokens,
            self._keeper,
            self._access.guard,
        )

    def _lifecycle_service(self) -> LifecycleService:
        lifecycle = Lifecycle(
            self._visible,
            self._read_model,
            self._approvals.activating,
            self._drains,
            self._recovery,
            self._clock,
        )
        return LifecycleService(
            lifecycle,
            self._drains,
            self._stops,
            self._shutdown,
            self._access.guard,
            self._access.may,
        )

    def _task_service(self) -> TaskService:
        tasks = Tasks(
            self._visible,
            self._read_model,
            self._ports.ids,
            self._task_data,
            self._assigner,
            self._clock,
            max_waiting=self._settings.max_waiting_tasks,
            quotas=self._quotas,
        )
        leases = TaskLeases(
            self._visible,
            self._read_model,
            self._assigner,
            self._clock,
            pin_ms=_ms(self._settings.session_pin_seconds),
        )
        return TaskService(tasks, leases, self._delivery, self._tokens, self._keeper)

    def _rollout_service(self) -> RolloutService:
        rollouts = Rollouts(self._visible, self._read_model, self._ports.ids, self._clock)
        return RolloutService(rollouts, self._tokens, self._keeper)


def liveness_settings(settings: Settings) -> LivenessSettings:
    """Return how silence is judged by these settings."""
    return LivenessSettings(
        interval_ms=_ms(settings.heartbeat_interval_seconds),
        degraded_after_ms=_ms(settings.degraded_after_seconds),
        lost_after_ms=_ms(settings.lost_after_seconds),
        stalled_after_ms=_ms(settings.stalled_after_seconds),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
