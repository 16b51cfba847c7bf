"""`fleetplane agents drain --wait`: a drain on its way."""

import asyncio
from typing import Final

from controlplane.cli.drain_views import drain_sentence, target
from controlplane.cli.rendering import note
from fleetplane import DeadlineExceeded, FleetClient, Unavailable
from fleetplane.v1 import lifecycle_service_pb2 as pb

ROUND: Final = 5.0
"""Seconds between two reports of progress."""

PAUSE: Final = 0.5
"""Seconds before a daemon that did not answer is asked again."""


async def wait_until_safe(
    client: FleetClient, known: pb.Drain, agent_id: str, instance_id: str, limit: float
) -> pb.Drain:
    """Ask until it is safe to stop or the time is up; a daemon that is away is asked again.

    Args:
        client: an open client.
        known: the drain as it is known.
        agent_id: whose; an instance is enough.
        instance_id: of which process.
        limit: seconds to wait at most.

    Returns:
        The drain as it was last heard of.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while not known.safe_to_stop and (left := end - loop.time()) > 0:
        try:
            known = await client.get_drain(agent_id, instance_id=instance_id, wait=min(ROUND, left))
        except (Unavailable, DeadlineExceeded) as error:
            if end - loop.time() <= PAUSE:
                raise
            note(f"{error.message}; asking again")
            await asyncio.sleep(PAUSE)
        else:
            if not known.safe_to_stop:
                note(f"{target(known)}: {drain_sentence(known)}")
    return known
