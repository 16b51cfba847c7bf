"""Builds the use cases of one replica over its ports, the gRPC services over them, and the loops.

Kept apart from `app`, which opens what the ports need and owns what runs. Constructor calls only,
in the order of their dependencies.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import grpc

from controlplane.api.drain import Drain as Shutdown
from controlplane.api.pagination import PageTokens
from controlplane.api.streams import StreamKeeper, StreamLimits
from controlplane.api.v1.config_service import ConfigService
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.api.v1.registry_service import RegistryService
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.audit.attribution import AttributedLedger
from controlplane.services.beats import BeatIntake
from controlplane.services.configs import Configs
from controlplane.services.convergence import Convergence
from controlplane.services.discovery import Discovery
from controlplane.services.expiry import Expiry
from controlplane.services.extra_schemas import ExtraSchemas
from controlplane.services.hub import Hub, acknowledgements_topic
from controlplane.services.lifecycle.activation import PolicyActivation
from controlplane.services.lifecycle.commands import Commands
from controlplane.services.liveness import Liveness
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registry import Registry
from controlplane.services.rollouts.reconciler import RolloutReconciler
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.beat_flusher import BeatFlusher
from controlplane.tasks.follower import Follower
from controlplane.tasks.liveness_sweeper import LivenessSweeper
from controlplane.tasks.rollout_reconciler import RolloutLoop
from controlplane.wiring.access import AccessParts
from controlplane.wiring.approvals import ApprovalParts
from controlplane.wiring.governance import GovernanceParts, Ground
from controlplane.wiring.policies import PolicyParts, policy_defaults
from controlplane.wiring.ports import Loop, OnTransition, Ports
from controlplane.wiring.work import WorkParts
from fleetplane.v1 import (
    config_service_pb2_grpc,
    lifecycle_service_pb2_grpc,
    registry_service_pb2_grpc,
)


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
        self._work = WorkParts(
            settings,
            ledger=ports.ledger,
            visible=self._visible,
            read_model=self._read_model,
            clock=ports.clock,
            ids=ports.ids,
            quotas=self._quotas,
            page_tokens=self._tokens,
            keeper=self._keeper,
            shutdown=shutdown,
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
        lifecycle = self._work.lifecycle_service(
            self._approvals.activating, self._access.guard, self._access.may
        )

        def add_services(server: grpc.aio.Server) -> None:
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
            config_service_pb2_grpc.add_ConfigServiceServicer_to_server(config, server)
            lifecycle_service_pb2_grpc.add_LifecycleServiceServicer_to_server(lifecycle, server)
            self._work.add_services(server)
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
            rollouts.run,
            *self._work.loops(),
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
            stops=self._work.stops,
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
