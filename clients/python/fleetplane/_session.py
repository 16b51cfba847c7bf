"""What the agents of one process share: registration in batches, one heartbeat, one watch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetplane._batching import Batcher
from fleetplane._beats import HeartbeatHub
from fleetplane._connected import Connection
from fleetplane._exceptions import FleetError
from fleetplane._fail_modes import LocalDecisions
from fleetplane._spec import Registration
from fleetplane._subscriptions import ConfigSubscriptions
from fleetplane.v1 import registry_service_pb2

if TYPE_CHECKING:  # the client makes the session
    from fleetplane._client import FleetClient
    from fleetplane._local_policies import LocalPolicies
    from fleetplane._local_side import LocalSide

MAX_REGISTRATIONS = 500
"""Entries the daemon accepts in one batch registration."""


class FleetSession:
    """The shared half of every agent of one client. Made by `FleetClient.session`.

    Agents that register at the same moment do so in one call; their beats travel on one stream,
    their configurations arrive on another. A thousand agents cost two streams, and one more
    for each that takes tasks.

    Args:
        client: whose agents.
        connection: its open channel.
    """

    def __init__(self, client: "FleetClient", connection: Connection) -> None:
        async def send(
            registrations: Sequence[Registration],
        ) -> Sequence[registry_service_pb2.RegisterResponse | FleetError]:
            return await client.batch_register(registrations)

        self._registrations = Batcher[Registration, registry_service_pb2.RegisterResponse](
            send, max_items=MAX_REGISTRATIONS
        )
        self.beats = HeartbeatHub(connection, client.namespace)
        """The heartbeat stream."""
        self.configs = ConfigSubscriptions(lambda: client.watch_config(()))
        """The configuration watch."""
        self._connection = connection
        self._namespace = client.namespace
        self._local: LocalSide | None = None

    async def register(self, registration: Registration) -> registry_service_pb2.RegisterResponse:
        """Register, together with whoever does so at the same moment.

        Raises:
            FleetError: this entry was refused, or the call failed after its retries.
        """
        return await self._registrations.submit(registration)

    def local_policies(self, agent_ids: Sequence[str], options: LocalDecisions) -> "LocalPolicies":
        """Return what decides for some agents in this process, on a watch that all share.

        Raises:
            ModuleNotFoundError: the extra `policies` is not installed.
            ValueError: no agent or too many, or malformed options.
        """
        if self._local is None:
            try:
                from fleetplane._local_side import LocalSide  # noqa: PLC0415  # an optional extra
            except ModuleNotFoundError as error:
                message = "decisions in this process need `pip install fleetplane-client[policies]`"
                raise ModuleNotFoundError(message, name=error.name) from error
            self._local = LocalSide(self._connection, self._namespace)
        return self._local.decision_point(agent_ids, options)

    async def aclose(self) -> None:
        """End the streams and give up registrations in flight; idempotent."""
        local, self._local = self._local, None
        if local is not None:
            await local.aclose()
        await self._registrations.aclose()
        await self.configs.aclose()
        await self.beats.aclose()
