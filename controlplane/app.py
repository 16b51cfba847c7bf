"""The composition root: the one module that knows every class.

    async with App(settings) as app:
        await app.run(stop, on_serving=lambda: print(app.serving))

The order of the building is the order of the dependencies; the order of the tear-down is its
reverse, after the drain of `api/drain.py` has let calls and streams finish.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.health import Health
from controlplane.api.pagination import PageTokens
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.api.streams import StreamKeeper, StreamLimits
from controlplane.api.v1.config_service import ConfigService
from controlplane.api.v1.heartbeat import HeartbeatStream
from controlplane.api.v1.policy_service import PolicyService
from controlplane.api.v1.registry_service import RegistryService
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.policies import Effect
from controlplane.services.activation import PolicyActivation
from controlplane.services.beats import BeatIntake
from controlplane.services.configs import Configs
from controlplane.services.convergence import Convergence
from controlplane.services.decisions import Decisions
from controlplane.services.discovery import Discovery
from controlplane.services.expiry import Expiry
from controlplane.services.extra_schemas import ExtraSchemas
from controlplane.services.hub import Hub, acknowledgements_topic
from controlplane.services.ids import TimeSortedIds
from controlplane.services.liveness import Liveness
from controlplane.services.policies import Policies
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registry import Registry
from controlplane.services.store_clock import StoreClock
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import EMBEDDED, Settings
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import ServerFacts, StoreConnection
from controlplane.storage.redis.embedded import EmbeddedStore
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.storage.redis.shared_secret import shared_secret
from controlplane.tasks.beat_flusher import BeatFlusher
from controlplane.tasks.follower import Follower
from controlplane.tasks.liveness_sweeper import LivenessSweeper
from controlplane.tasks.readiness import ReadinessProbe
from controlplane.tasks.runner import run_tasks
from fleetplane.v1 import (
    config_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)

STORE_RETRY_SECONDS = 1.0
"""Pause between two attempts to reach a store that is not there yet when the daemon starts."""

_log = logging.getLogger("fleetplane.app")


@dataclass(frozen=True, slots=True)
class Role:
    """What kind of process this is."""

    is_worker: bool = False
    """One of several processes that share the port; the parent owns the store."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What the daemon says once it serves."""

    listen: str
    store: str
    server: str
    """Name and version of the store's server."""


class App:
    """A running daemon: one replica."""

    def __init__(self, settings: Settings, role: Role = Role()) -> None:
        self._settings = settings
        self._role = role
        self._stack = AsyncExitStack()
        self._clock = StoreClock()
        self._drain = Drain()
        self._tasks: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._loaded = asyncio.Event()
        self._server: grpc.aio.Server
        self._health: Health
        self.serving: Serving

    async def __aenter__(self) -> Self:
        """Build everything and open the port.

        Raises:
            StoreConfigurationError: the store's URL or server cannot be used.
            ListenError: the address cannot be listened on.
        """
        async with AsyncExitStack() as building:
            url = await self._store_url(building)
            connection = await building.enter_async_context(
                StoreConnection(url, client_name="fleetplane")
            )
            facts, secret = await _reached(connection)
            services = await self._build(building, connection, secret)
            options = self._options()
            self._server, self._health = create_server(
                options, Pipeline(standard_concerns(self._drain)), services
            )
            listen = bind(self._server, options)
            await self._server.start()
            self.serving = Serving(
                listen,
                EMBEDDED if self._settings.uses_embedded_store else connection.address.redacted,
                f"{facts.server} {facts.version}",
            )
            self._stack = building.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what was opened, in reverse."""
        await self._stack.aclose()

    async def run(self, stop: asyncio.Event, on_serving: Callable[[], None]) -> bool:
        """Serve until `stop` is set, then drain; return whether every call could finish.

        `on_serving` is called once, when the first snapshot is loaded: before that the port is open
        and every call is answered NOT_READY.

        Raises:
            BaseException: what ended a task that must not end.
        """
        background = asyncio.create_task(run_tasks(*self._tasks), name="background")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        loading = asyncio.create_task(self._loaded.wait(), name="first-snapshot")
        ends = (background, stopping)
        try:
            await asyncio.wait((*ends, loading), return_when=asyncio.FIRST_COMPLETED)
            if not any(end.done() for end in ends):
                on_serving()
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            clean = await self._drain.run(
                self._server,
                self._health,
                self._settings.grace_seconds,
                delay=self._settings.drain_delay_seconds if stop.is_set() else 0.0,
            )
        finally:
            tasks = (background, stopping, loading)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failure = outcomes[0]
        if isinstance(failure, Exception):
            raise failure
        return clean

    async def _store_url(self, building: AsyncExitStack) -> str:
        settings = self._settings
        if not settings.uses_embedded_store:
            return settings.store
        store = await building.enter_async_context(embedded_store(settings))
        self._tasks.append(store.watch)
        return store.url

    async def _build(
        self, building: AsyncExitStack, connection: StoreConnection, secret: bytes
    ) -> Callable[[grpc.aio.Server], None]:
        """Build the services over a store; return what adds them to a server."""
        settings, clock = self._settings, self._clock
        liveness_settings = _liveness(settings)
        ids = TimeSortedIds()
        replica_id = ids.new_id("rep")
        ledger = await building.enter_async_context(RedisLedger(connection))
        feed = await building.enter_async_context(
            RedisChangeFeed(connection, replica_id=replica_id)
        )
        beat_log = RedisBeatLog(connection, replica_id=replica_id)
        hub = Hub()
        read_model = ReadModel(hub, default_effect=Effect(settings.policy_default))

        def acknowledged(namespace: str, _agent_id: str) -> None:
            hub.notify((acknowledgements_topic(namespace),))

        intake = BeatIntake(clock, liveness_settings, acknowledged)
        visible = VisibleLedger(ledger, read_model, feed.hint)
        liveness = Liveness(
            visible, read_model, intake, PolicyActivation(clock), liveness_settings, clock
        )
        expiry = Expiry(ledger, beat_log, read_model, liveness_settings, clock)

        async def restore_beats(namespace: str, view: NamespaceView) -> None:
            intake.restore(view, await beat_log.deadlines(namespace))

        follower = Follower(feed, read_model, clock, on_loaded=restore_beats)
        self._loaded = follower.caught_up
        flusher = BeatFlusher(intake, beat_log, read_model, clock)
        sweeper = LivenessSweeper(expiry, flusher, read_model, clock)
        self._tasks += [follower.run, flusher.run, sweeper.run]

        def probe() -> Coroutine[Any, Any, None]:
            return ReadinessProbe(
                connection.ping,
                follower.caught_up,
                self._health,
                clock,
                unready_after_seconds=settings.unready_after_seconds,
            ).run()

        self._tasks.append(probe)
        keeper = StreamKeeper(
            drain=self._drain,
            limits=StreamLimits(max_age_seconds=settings.max_stream_age_seconds),
        )
        tokens = PageTokens(secret)
        configs = Configs(visible, read_model, clock)
        registry_service = RegistryService(
            Registry(visible, read_model, ids, liveness_settings),
            Discovery(read_model),
            liveness,
            HeartbeatStream(intake, liveness, read_model, liveness_settings, keeper),
            read_model,
            clock,
            liveness_settings,
            tokens,
            keeper,
        )
        config_service = ConfigService(
            configs,
            ExtraSchemas(visible, configs),
            Convergence(read_model, clock, is_draining=self._drain.draining.is_set),
            read_model,
            tokens,
            keeper,
        )
        policy_service = PolicyService(
            Policies(visible, read_model, max_policies=settings.max_policies),
            Decisions(read_model, clock),
            tokens,
        )

        def add_services(server: grpc.aio.Server) -> None:
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
                registry_service, server
            )
            config_service_pb2_grpc.add_ConfigServiceServicer_to_server(config_service, server)
            policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(policy_service, server)

        return add_services

    def _options(self) -> ServerOptions:
        return ServerOptions(
            address=self._settings.listen,
            insecure=self._settings.insecure,
            share_port=self._role.is_worker,
            reflection=self._settings.reflection,
        )


@asynccontextmanager
async def embedded_store(settings: Settings) -> AsyncIterator[EmbeddedStore]:
    """Run the embedded store of these settings."""
    store = EmbeddedStore(
        settings.data_dir,
        binary=settings.store_binary,
        appendfsync=settings.store_fsync,
        runtime_dir=settings.runtime_dir,
    )
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def _liveness(settings: Settings) -> LivenessSettings:
    return LivenessSettings(
        interval_ms=round(settings.heartbeat_interval_seconds * 1000),
        degraded_after_ms=round(settings.degraded_after_seconds * 1000),
        lost_after_ms=round(settings.lost_after_seconds * 1000),
        stalled_after_ms=round(settings.stalled_after_seconds * 1000),
    )


async def _reached(connection: StoreConnection) -> tuple[ServerFacts, bytes]:
    """Wait for the store, for as long as it takes; the operator sees why nothing is served."""
    waiting = False
    while True:
        try:
            return await connection.check_server(), await shared_secret(connection)
        except StoreUnavailable as failure:
            if not waiting:
                _log.warning(
                    "waiting for the store",
                    extra={"store": connection.address.redacted, "cause": str(failure)},
                )
            waiting = True
            await asyncio.sleep(STORE_RETRY_SECONDS)
