"""Agents of one process that name the same address share one client."""

import asyncio
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, is_final
from fleetplane._channel import ChannelConfig
from fleetplane._client import FleetClient
from fleetplane._connected import DEFAULT_NAMESPACE
from fleetplane._enrolled import EnrolledIdentity
from fleetplane._exceptions import FleetError

_Key = tuple[str, str, ChannelConfig]


@dataclass(slots=True)
class _Shared:
    client: FleetClient
    users: int = 0


_clients: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, _Shared]]] = (
    WeakKeyDictionary()
)
"""Per event loop, because a channel belongs to the loop that made it."""


async def borrow_client(target: str, namespace: str, config: ChannelConfig) -> FleetClient:
    """Return the open client for an address, opening it for its first user."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    key = (target, namespace or DEFAULT_NAMESPACE, config)
    shared = clients.get(key)
    if shared is None:
        shared = _Shared(FleetClient(target, namespace=namespace, channel_config=config))
        await shared.client.__aenter__()  # opens without waiting: nobody else can get here between
        clients[key] = shared
    shared.users += 1
    return shared.client


async def open_client(
    target: str, namespace: str, config: ChannelConfig, identity: EnrolledIdentity, within: float
) -> FleetClient:
    """Return an open client with the identity of one agent, which nobody shares.

    Args:
        target: address of the port that demands certificates.
        namespace: tenant; empty: that of the identity.
        config: everything else about the connection.
        identity: who this is; it may have to enrol first.
        within: seconds that this may take, for a plane that is away too.

    Raises:
        FleetError: the daemon refuses the join token, or was away all the time.
        OSError: a file of the identity cannot be used.
    """
    client = FleetClient(target, namespace=namespace, identity=identity, channel_config=config)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
    while True:
        try:
            return await client.__aenter__()
        except FleetError as error:
            wait = backoff.next(error.retry_after)
            if is_final(error) or loop.time() + wait >= deadline:
                raise
        await asyncio.sleep(wait)


async def return_client(client: FleetClient) -> None:
    """Give back a borrowed client; its last user closes it."""
    clients = _clients.get(asyncio.get_running_loop(), {})
    key = (client.target, client.namespace, client.channel_config)
    shared = clients.get(key)
    if shared is not None and shared.client is client:
        shared.users -= 1
        if shared.users:
            return
        del clients[key]
    await client.aclose()
