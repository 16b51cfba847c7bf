"""Refusals of a store that no waiting cures, in words that say what to change.

A store that is away comes back; one that refuses a password, a permission or a certificate has to
be told, or the daemon has. The words name commands, options and files, and never a secret.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool

from controlplane.storage.redis.address import StoreAddress
from controlplane.storage.redis.errors import StoreConfigurationError
from controlplane.storage.redis.password_file import PasswordFileError

MANUAL: Final = "docs/store-security.md"
"""Where the rule of the store's user is."""

_COMMAND: Final = re.compile(r"'([\w|]+)' command")

# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_HOST: Final = frozenset({62, 64})

# OpenSSL's names of what the other side answers, by what they mean to us.
_TLS_REFUSALS: Final = {
    "the store does not speak TLS at this port: use a redis:// URL, or the port that does": (
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
    ),
    "the store demands a certificate: name one in ssl_certfile and ssl_keyfile": (
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
    ),
    "the store does not accept the certificate in ssl_certfile": (
        "TLSV1_ALERT_UNKNOWN_CA",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    ),
}


def refusal_in(error: BaseException) -> StoreConfigurationError | None:
    """Return what an error of redis-py says about the configuration; None if it says nothing.

    Looks through the wrappers that redis-py puts around an error of its handshake.
    """
    for cause in _causes(error):
        words = _words(cause)
        if words is not None:
            return StoreConfigurationError(words)
    return None


def forbidden_command(error: BaseException) -> str | None:
    """Return which command the access list forbids, such as `xadd` or `config|get`.

    None if the error is another one, `""` if the command is allowed but its key or channel is not.
    """
    if not isinstance(error, redis_errors.NoPermissionError):
        return None
    found = _COMMAND.search(str(error))
    return found[1] if found else ""


async def refusal_of_sentinels(
    client: Any, error: redis_errors.ConnectionError
) -> StoreConfigurationError | None:
    """Return why the sentinels do not name a primary, if that is for a reason of configuration.

    redis-py's error lists what they answered as text only, so they are asked again.
    """
    pool = client.connection_pool if isinstance(client, Redis) else None
    if not isinstance(error, MasterNotFoundError) or not isinstance(pool, SentinelConnectionPool):
        return None
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            await sentinel.sentinel_masters()
        except (redis_errors.RedisError, OSError) as answer:
            refusal = refusal_in(answer)
            if refusal is not None:
                return StoreConfigurationError(f"asking a sentinel: {refusal}")
    return None


async def check_tls_files(address: StoreAddress) -> None:
    """Read the files of certificates and keys that a URL names, as each connection will.

    Raises:
        StoreConfigurationError: one of them cannot be used; names the option and the file.
    """
    if address.tls:
        await asyncio.to_thread(_read_tls_files, address)


def _read_tls_files(address: StoreAddress) -> None:
    context = ssl.create_default_context()
    roots, chain, key = (
        address.options.get(name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    )
    if roots is not None:
        try:
            context.load_verify_locations(cafile=str(roots))
        except OSError as error:  # also SSLError
            raise _unusable("ssl_ca_certs", roots, error) from error
    if chain is not None:
        try:
            # An encrypted key would ask the terminal for its password.
            context.load_cert_chain(str(chain), None if key is None else str(key), password="")
        except (OSError, ValueError) as error:
            where = chain if key is None else f"{chain} with ssl_keyfile {key}"
            raise _unusable("ssl_certfile", where, error) from error


def _unusable(option: str, where: object, error: Exception) -> StoreConfigurationError:
    why = (error.strerror if isinstance(error, OSError) else None) or "it is not readable PEM"
    return StoreConfigurationError(f"{option} {where} of the store URL cannot be used: {why}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _words(error: BaseException) -> str | None:
    if isinstance(error, PasswordFileError):
        return str(error)
    if isinstance(error, (redis_errors.AuthenticationError, redis_errors.AuthorizationError)):
        return "the store refuses the credentials of its URL"
    if isinstance(error, redis_errors.NoPermissionError):
        command = forbidden_command(error)
        what = f"run the command {command}" if command else "use these keys or channels"
        return f"the store's user may not {what}; its rule is in {MANUAL}"
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = (
            "its nodes must be addressed by the names in their certificates"
            if error.verify_code in _OTHER_HOST
            else "name the file with its authority in ssl_ca_certs"
        )
        return f"the store's certificate is not accepted: {error.verify_message}; {hint}"
    if isinstance(error, ssl.SSLError):
        return next((w for w, names in _TLS_REFUSALS.items() if error.reason in names), None)
    return None
