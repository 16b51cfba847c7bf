"""Agents of one process that name the same address share one client."""

import asyncio
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from fleetplane._channel import ChannelConfig
from fleetplane._client import FleetClient

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
    key = (target, namespace, config)
    shared = clients.get(key)
    if shared is None:
        shared = _Shared(FleetClient(target, namespace=namespace, channel_config=config))
        await shared.client.__aenter__()  # opens without waiting: nobody else can get here between
        clients[key] = shared
    shared.users += 1
    return shared.client


async def return_client(client: FleetClient) -> None:
    """Give back a borrowed client; its last user closes it."""
    clients = _clients.get(asyncio.get_running_loop(), {})
    key = (client.target, client.namespace, client.channel_config)
    shared = clients.get(key)
    if shared is None or shared.client is not client:
        return
    shared.users -= 1
    if shared.users == 0:
        del clients[key]
        await client.aclose()
