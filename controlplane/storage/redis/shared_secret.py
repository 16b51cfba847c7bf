"""A secret that all replicas on one store share: made by the first, read by the others."""

import secrets

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import map_redis_errors

_KEY = "fp:secret:page-tokens"
_BYTES = 32


async def shared_secret(connection: StoreConnection) -> bytes:
    """Return the secret under which page tokens are signed.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with map_redis_errors():
        # SET NX twice does no harm: whoever came first stays.
        await connection.writes.set(_KEY, secrets.token_bytes(_BYTES), nx=True)
        stored = await connection.writes.get(_KEY)
    if not isinstance(stored, bytes):
        raise StoreUnavailable("the store does not keep what it was given")
    return stored
