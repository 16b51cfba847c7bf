"""Store URLs: one string that names a standalone server, a Sentinel service or a Cluster.

    redis://[user:password@]host[:6379][/db]          standalone, TCP
    rediss://...                                      the same over TLS
    unix:///path/to.sock[?db=0]                       standalone, unix socket (the embedded store)
    redis+sentinel://[user:password@]h1[:26379],h2[:26379]/service[/db]
    redis+cluster://[user:password@]h1[:6379],h2[:6379]
    rediss+sentinel://..., rediss+cluster://...       the same over TLS

Query options, all optional: `db`, `username`, `password`, `password_file` (read at each connect, so
that the password is neither in the URL nor in the environment), `socket_timeout` and
`socket_connect_timeout` (seconds), `max_connections` (per pool; in a Cluster per node),
`ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` (paths of PEM files), `ssl_cert_reqs` (`required`,
`optional`, `none`), `ssl_check_hostname` (`true`, `false`), `sentinel_username`,
`sentinel_password`, `sentinel_password_file`. Anything else is refused: an option that is silently
ignored is a misconfiguration nobody sees.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from controlplane.storage.redis.errors import StoreConfigurationError

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379


class Topology(StrEnum):
    """How the primaries behind a URL are found."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """A parsed store URL.

    `hosts` are (host, port): the server, the sentinels, or the cluster's seed nodes; empty when
    `socket_path` is set. `options` are keyword arguments of a redis-py connection.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    socket_path: str | None = None
    service: str | None = None
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    sentinel_password_file: str | None = None
    options: Mapping[str, str | float | int | bool] = field(default_factory=dict)

    @property
    def redacted(self) -> str:
        """The address without user, password and options, fit for a log line."""
        scheme = "rediss" if self.tls else "redis"
        if self.socket_path is not None:
            return f"unix://{self.socket_path}"
        hosts = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.hosts)
        if self.topology is Topology.STANDALONE:
            return f"{scheme}://{hosts}/{self.db}"
        path = f"/{self.service}/{self.db}" if self.service else ""
        return f"{scheme}+{self.topology}://{hosts}{path}"


def _boolean(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError("not a boolean")
    return known[text.lower()]


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("not a positive number")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("not a positive number")
    return value


def _database(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("not a database number")
    return value


def _verification(text: str) -> str:
    if text not in {"required", "optional", "none"}:
        raise ValueError("not a way to verify certificates")
    return text


def _path_of_file(text: str) -> str:
    if not text:
        raise ValueError("not a path")
    return text


_T = TypeVar("_T")

_PARSERS: Final[Mapping[str, Callable[[str], str | float | int | bool]]] = {
    "socket_timeout": _positive_float,
    "socket_connect_timeout": _positive_float,
    "max_connections": _positive_int,
    "ssl_ca_certs": _path_of_file,
    "ssl_certfile": _path_of_file,
    "ssl_keyfile": _path_of_file,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _boolean,
}


def parse_store_url(url: str) -> StoreAddress:
    """Parse `url`; raise `StoreConfigurationError` that names the wrong part, never a secret."""
    try:
        split = urlsplit(url)
        query = dict(parse_qsl(split.query, keep_blank_values=True))
    except ValueError as error:
        raise StoreConfigurationError("the store URL cannot be parsed") from error
    base, _, kind = split.scheme.partition("+")
    if split.scheme == "unix":
        return _unix(split, query)
    if base not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"}:
        raise StoreConfigurationError(
            f"store URL scheme {split.scheme!r} is none of redis, rediss, unix, redis+sentinel, "
            "rediss+sentinel, redis+cluster, rediss+cluster"
        )
    topology = Topology(kind or "standalone")
    user, password, hosts = _authority(
        split.netloc, SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    )
    if topology is Topology.STANDALONE and len(hosts) != 1:
        raise StoreConfigurationError("a redis:// store URL names exactly one host")
    service, db = _path(split.path, topology)
    user, password, password_file = _who(query, "", user, password)
    watcher, watcher_password, watcher_file = (
        _who(query, "sentinel_") if topology is Topology.SENTINEL else (None, None, None)
    )
    return StoreAddress(
        topology=topology,
        hosts=hosts,
        service=service,
        db=_option("db", query.pop("db"), _database) if "db" in query else db,
        tls=base == "rediss",
        username=user,
        password=password,
        password_file=password_file,
        sentinel_username=watcher,
        sentinel_password=watcher_password,
        sentinel_password_file=watcher_file,
        options=_options(query, tls=base == "rediss"),
    )


def _unix(split: SplitResult, query: dict[str, str]) -> StoreAddress:
    if not split.path or split.path == "/":
        raise StoreConfigurationError("a unix:// store URL needs the path of the socket")
    user, password, _ = _credentials(split.netloc)
    user, password, password_file = _who(query, "", user, password)
    return StoreAddress(
        topology=Topology.STANDALONE,
        socket_path=unquote(split.path),
        db=_option("db", query.pop("db", "0"), _database),
        username=user,
        password=password,
        password_file=password_file,
        options=_options(query, tls=False),
    )


def _who(
    query: dict[str, str], prefix: str = "", user: str | None = None, password: str | None = None
) -> tuple[str | None, str | None, str | None]:
    """Take user, password and password file from `query`; they win over what is before the `@`."""
    user = query.pop(f"{prefix}username", None) or user
    password = query.pop(f"{prefix}password", None) or password
    file = query.pop(f"{prefix}password_file", None) or None
    if password and file:
        raise StoreConfigurationError(
            f"the store URL has both a {prefix}password and {prefix}password_file; choose one"
        )
    return user, password, file


def _credentials(netloc: str) -> tuple[str | None, str | None, str]:
    userinfo, _, hosts = netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    return unquote(user) or None, unquote(password) or None, hosts


def _authority(
    netloc: str, default_port: int
) -> tuple[str | None, str | None, tuple[tuple[str, int], ...]]:
    user, password, hosts = _credentials(netloc)
    return user, password, tuple(_host(part, default_port) for part in hosts.split(","))


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):  # an IPv6 literal
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)):
        raise StoreConfigurationError("the store URL has an empty host or a wrong port")
    return unquote(host), int(port) if port else default_port


def _path(path: str, topology: Topology) -> tuple[str | None, int]:
    parts = [unquote(part) for part in path.split("/") if part]
    service = None
    if topology is Topology.SENTINEL:
        if not parts:
            raise StoreConfigurationError("a redis+sentinel:// store URL needs /<service>")
        service = parts.pop(0)
    if len(parts) > 1 or (parts and topology is Topology.CLUSTER and parts != ["0"]):
        raise StoreConfigurationError("the path of the store URL has too many parts")
    return service, _option("db", parts[0], _database) if parts else 0


def _options(query: Mapping[str, str], *, tls: bool) -> Mapping[str, str | float | int | bool]:
    options: dict[str, str | float | int | bool] = {}
    for name, text in query.items():
        if name not in _PARSERS or (name.startswith("ssl_") and not tls):
            raise StoreConfigurationError(f"the store URL has an unknown option {name!r}")
        options[name] = _option(name, text, _PARSERS[name])
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise StoreConfigurationError("the store URL has ssl_keyfile without ssl_certfile")
    return options


def _option(name: str, text: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise StoreConfigurationError(f"option {name!r} of the store URL is wrong") from error
