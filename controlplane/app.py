"""The composition root: opens the store, builds the replica over it (`wiring`), runs its loops.

    async with App(settings) as app:
        await app.run(stop, on_serving=lambda: print(app.serving))

The order of the building is the order of the dependencies; the order of the tear-down is its
reverse, after the drain of `api/drain.py` has let calls and streams finish.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import grpc

from controlplane.api.drain import Drain
from controlplane.api.health import Health
from controlplane.api.server import (
    PortCredentials,
    ServerOptions,
    bind_ports,
    create_server,
)
from controlplane.credentials.admin_token import AdminTokenFile
from controlplane.credentials.audit_keys import read_audit_keys
from controlplane.credentials.files import CredentialFileError
from controlplane.credentials.opening import Credentials, open_credentials
from controlplane.domain.errors import StoreUnavailable
from controlplane.services.access.api_tokens import ApiTokens
from controlplane.services.approvals.notices import Webhook
from controlplane.services.ids import TimeSortedIds
from controlplane.services.store_clock import StoreClock
from controlplane.settings import EMBEDDED, Settings
from controlplane.storage.redis.audit_log import RedisAuditLog
from controlplane.storage.redis.beat_log import RedisBeatLog
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import ServerFacts, StoreConnection
from controlplane.storage.redis.decision_log import RedisDecisionLog
from controlplane.storage.redis.embedded import EmbeddedStore
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.storage.redis.shared_secret import shared_secret
from controlplane.tasks.readiness import ReadinessProbe
from controlplane.tasks.runner import run_tasks
from controlplane.wiring import OnTransition, Ports, Replica, build_replica

UNARY_PER_CONNECTION = 1000
"""Unary calls that one connection may have open beside its streams; more wait in the client."""

STORE_RETRY_SECONDS = 1.0
"""Pause between two attempts to reach a store that is not there yet when the daemon starts."""

_log = logging.getLogger("fleetplane.app")


@dataclass(frozen=True, slots=True)
class Role:
    """What kind of process this is."""

    is_worker: bool = False
    """One of several processes that share the port; the parent owns the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What the daemon says once it serves."""

    listen: str
    """Where everybody connects."""
    listen_mtls: str | None
    """Where agents connect with their certificates; None: nowhere."""
    authenticates: bool
    """Whether callers have to say who they are, over TLS unless on a unix socket."""
    ca_bundle: str | None
    """File with the roots that clients need; None if the daemon's certificate is from elsewhere."""
    admin_token: str | None
    """File with the secret of the first administrator; None if there is none on this host."""
    store: str
    """URL of the store, without its secrets, or `embedded`."""
    server: str
    """Name and version of the store's server."""


class App:
    """A running daemon: one replica."""

    def __init__(
        self,
        settings: Settings,
        role: Role = Role(),
        *,
        on_transition: OnTransition = lambda _rollout_id, _point: None,
    ) -> None:
        """Prepare a replica; `on_transition` is told where rollouts are, for tests of crashes."""
        self._settings = settings
        self._role = role
        self._on_transition = on_transition
        self._stack = AsyncExitStack()
        self._clock = StoreClock()
        self._drain = Drain()
        self._tasks: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._loaded = asyncio.Event()
        self._credentials: Credentials | None = None
        self._api_tokens: ApiTokens
        self._server: grpc.aio.Server
        self._health: Health
        self.serving: Serving

    async def __aenter__(self) -> Self:
        """Build everything and open the port.

        Raises:
            StoreConfigurationError: the store's URL or server cannot be used.
            ListenError: the address cannot be listened on.
            CredentialFileError: a key or certificate cannot be used.
        """
        async with AsyncExitStack() as building:
            await self._open_credentials()
            url = await self._store_url(building)
            connection = await building.enter_async_context(
                StoreConnection(url, client_name="fleetplane")
            )
            facts, secret = await _reached(connection)
            replica = await self._build(building, connection, secret)
            options = self._options()
            self._server, self._health = create_server(
                options,
                replica.access.pipeline(self._drain),
                replica.add_services,
            )
            bound = bind_ports(self._server, options, self._port_credentials())
            await building.enter_async_context(replica.access.front_door.opened(self._server))
            await self._server.start()
            credentials = self._credentials
            bundle = None if credentials is None else credentials.bundle_file
            embedded = self._settings.uses_embedded_store
            self.serving = Serving(
                listen=bound.address,
                listen_mtls=bound.mtls_address,
                authenticates=credentials is not None,
                ca_bundle=None if bundle is None else str(bundle),
                admin_token=None,
                store=EMBEDDED if embedded else connection.address.redacted,
                server=f"{facts.server} {facts.version}",
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
                await self._announce_first_admin()
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

    async def _announce_first_admin(self) -> None:
        """Make the first administrator if there is none, and tell where its secret is.

        Called once, when the first snapshot is loaded and before anything is announced.
        """
        if self._credentials is None:
            return
        file = AdminTokenFile(self._settings.data_dir)
        file.recover(self._api_tokens.is_first_admin)
        try:
            made = await self._api_tokens.bootstrap_admin(file.keep)
        except StoreUnavailable:
            _log.warning(
                "cannot tell whether there is an administrator: the store is away",
                extra={"file": str(file.kept)},
            )
        except CredentialFileError as error:
            # Nothing was made. There may be administrators by OIDC or by the settings, and agents
            # need none: this is no reason not to serve.
            _log.error(
                "there is no administrator with an API token, and no place for the first one's:"
                " give the daemon a data_dir that it can write, or name admins",
                extra={"cause": str(error)},
            )
        else:
            file.settle(is_good=made is not None)
        if file.path.exists():
            self.serving = replace(self.serving, admin_token=str(file.path))

    async def _open_credentials(self) -> None:
        """Read keys and certificates, before anything else: what is wrong with them shows first."""
        self._credentials = await asyncio.to_thread(open_credentials, self._settings, self._clock)
        if self._credentials is not None:
            self._tasks += self._credentials.loops

    def _port_credentials(self) -> PortCredentials | None:
        credentials = self._credentials
        if credentials is None:
            return None
        demanded = self._settings.listen_mtls is not None
        return PortCredentials(
            tls=credentials.tls.tls_credentials(),
            mtls=credentials.tls.mtls_credentials() if demanded else None,
        )

    async def _store_url(self, building: AsyncExitStack) -> str:
        settings = self._settings
        if not settings.uses_embedded_store:
            return settings.store
        store = await building.enter_async_context(embedded_store(settings))
        self._tasks.append(store.watch)
        return store.url

    async def _build(
        self, building: AsyncExitStack, connection: StoreConnection, secret: bytes
    ) -> Replica:
        """Open the ports over a store and build the services over them."""
        ids = TimeSortedIds()
        replica_id = ids.new_id("rep")
        ports = Ports(
            ledger=await building.enter_async_context(RedisLedger(connection)),
            feed=await building.enter_async_context(
                RedisChangeFeed(connection, replica_id=replica_id)
            ),
            beat_log=RedisBeatLog(connection, replica_id=replica_id),
            decision_log=RedisDecisionLog(connection),
            audit_log=RedisAuditLog(connection),
            clock=self._clock,
            ids=ids,
            verifier=None if self._credentials is None else self._credentials.verifier,
            reader=None if self._credentials is None else self._credentials.reader,
            authority=None if self._credentials is None else self._credentials.authority,
            audit_keys=read_audit_keys(self._settings.audit_key_file),
            webhook=await self._webhook(building),
        )
        replica = build_replica(self._settings, ports, self._drain, secret, self._on_transition)
        self._loaded = replica.caught_up
        self._api_tokens = replica.access.api_tokens

        def probe() -> Coroutine[Any, Any, None]:
            return ReadinessProbe(
                connection.ping,
                replica.caught_up,
                self._health,
                self._clock,
                unready_after_seconds=self._settings.unready_after_seconds,
                on_contact=replica.confirm,
            ).run()

        self._tasks += [*replica.loops, probe]
        return replica

    async def _webhook(self, building: AsyncExitStack) -> Webhook | None:
        url, secret_file = (
            self._settings.approval_webhook_url,
            self._settings.approval_webhook_secret_file,
        )
        if not url or secret_file is None:
            return None
        # HTTP costs 0.1 s and 10 MB: only those who have a webhook pay for it.
        from controlplane.outbound.webhook import (  # noqa: PLC0415 - see above
            HttpWebhook,
            SecretUnusable,
            read_secret,
        )

        try:  # now, not at the first approval
            read_secret(secret_file)
        except SecretUnusable as unusable:
            raise CredentialFileError(str(unusable)) from unusable
        return await building.enter_async_context(HttpWebhook(url, secret_file))

    def _options(self) -> ServerOptions:
        settings = self._settings
        return ServerOptions(
            address=settings.listen,
            mtls_address=settings.listen_mtls,
            insecure=settings.insecure,
            share_port=self._role.is_worker,
            reflection=settings.reflection,
            handshake_seconds=settings.handshake_seconds,
            idle_connection_seconds=settings.idle_connection_seconds,
            # Unary calls run beside as many streams as there may be.
            max_connection_streams=settings.max_streams + UNARY_PER_CONNECTION,
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


def _cause_of(failure: StoreUnavailable, connection: StoreConnection) -> str:
    """Return what the client of the store has said, and what may be behind it."""
    cause = failure.__cause__
    if cause is None:
        return str(failure)
    text = f"{type(cause).__name__}: {cause}"
    if connection.address.tls and "timeout" in text.lower():
        # A port without TLS waits for the rest of a command that it does not understand.
        text += " (rediss:// needs a port that speaks TLS; for one that does not, use redis://)"
    return text


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
                    extra={
                        "store": connection.address.redacted,
                        "cause": _cause_of(failure, connection),
                    },
                )
            waiting = True
            await asyncio.sleep(STORE_RETRY_SECONDS)
