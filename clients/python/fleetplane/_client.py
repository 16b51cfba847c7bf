"""The client of all services of one control plane."""

from types import TracebackType
from typing import Self

from fleetplane._channel import DEFAULT_TARGET, ChannelConfig
from fleetplane._configs import ConfigCalls
from fleetplane._connected import Connected, Connection
from fleetplane._lifecycle import LifecycleCalls
from fleetplane._policies import PolicyCalls
from fleetplane._registry import RegistryCalls
from fleetplane._rollouts import RolloutCalls
from fleetplane._routes import RouteCalls
from fleetplane._session import FleetSession
from fleetplane._tasks import TaskCalls


class FleetClient(
    RegistryCalls, ConfigCalls, PolicyCalls, LifecycleCalls, TaskCalls, RouteCalls, RolloutCalls
):
    """Every call of the control plane, typed, with deadlines, retries and typed errors.

    Use it as an asynchronous context manager; it belongs to the event loop that enters it. One
    client per process is enough: calls share its connection, concurrent policy questions share
    messages, and all agents made with it share one heartbeat stream.

        async with FleetClient("127.0.0.1:50051") as client:
            best = await client.find_best_agent(capabilities=["translate"])

    Args:
        target: address of the daemon: `host:port`, `dns:///name:port` or `unix:/path`.
        namespace: tenant of every call.
        channel_config: security, deadlines, retries, keepalive.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        namespace: str = "default",
        channel_config: ChannelConfig | None = None,
    ) -> None:
        Connected.__init__(self, target, namespace, channel_config or ChannelConfig())
        self._batchers = {}
        self._session: FleetSession | None = None

    async def __aenter__(self) -> Self:
        """Open the channel; it connects at its first call.

        Raises:
            RuntimeError: it is open already.
            ValueError: a token would travel in plain text to another machine.
        """
        if self._connection is not None:
            raise RuntimeError("the client is open already")
        self._connection = Connection(self._target, self._channel_config)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def session(self) -> FleetSession:
        """What the agents of this client share: one heartbeat stream, one configuration watch."""
        if self._session is None:
            self._session = FleetSession(self, self.connection)
        return self._session

    async def aclose(self) -> None:
        """Stop the session, give up calls in flight, close the channel; idempotent."""
        session, self._session = self._session, None
        try:
            if session is not None:
                await session.aclose()
            await self._close_batchers()
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.channel.close(None)
