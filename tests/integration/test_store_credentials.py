"""Passwords and certificates between the daemon and its store.

The bundled server speaks no TLS; a port in front of it does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.errors import StoreConfigurationError
from tests.fakes.daemon import DaemonError, running_daemon
from tests.fakes.store_rules import SECRET, USER, fresh, give, rule_for, url_for
from tests.fakes.store_session import run_session
from tests.fakes.tls_front import TestAuthority, server_context, tls_front
from tests.fakes.valkey import (
    ValkeyServer,
    free_port,
    short_directory,
    valkey_server,
)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[ValkeyServer]:
    async with valkey_server("--notify-keyspace-events", "K$", tcp=True) as server:
        await give(server, rule_for(USER))
        yield server


@pytest.fixture
def ca(tmp_path) -> TestAuthority:
    return TestAuthority(tmp_path, "trusted")


@pytest.fixture
def stranger(tmp_path) -> TestAuthority:
    return TestAuthority(tmp_path, "stranger")


@contextlib.asynccontextmanager
async def secured(
    server: ValkeyServer,
    ca: TestAuthority,
    *,
    address: str = "127.0.0.1",
    clients_of: TestAuthority | None = None,
) -> AsyncIterator[str]:
    """Yield the URL, without options, of a TLS port in front of a server."""
    assert server.port is not None
    port = free_port()
    context = server_context(*ca.issue("server", address=address), clients_of=clients_of)
    with tls_front(port, server.port, context):
        yield f"rediss://{USER}:{SECRET}@127.0.0.1:{port}/0"


async def refusal(url: str) -> str:
    """Return how the daemon refuses to use a store; no word of it may be a secret."""
    async with StoreConnection(url) as store:
        with pytest.raises(StoreConfigurationError) as refused:
            await store.check_server()
    assert SECRET not in str(refused.value)
    return str(refused.value)


async def test_a_session_over_tls_is_like_any_other(server, ca):
    async with (
        secured(server, ca) as url,
        StoreConnection(f"{url}?ssl_ca_certs={ca.file}") as store,
    ):
        await store.check_server()
        seen = await run_session(store, server.command, namespace=fresh("tls"))
        assert seen.followed_by == "notify"


async def test_a_certificate_of_an_unknown_authority_is_refused(server, ca, stranger):
    async with secured(server, ca) as url:
        for options in ("", f"?ssl_ca_certs={stranger.file}"):
            words = await refusal(url + options)
            assert "certificate is not accepted" in words
            assert "ssl_ca_certs" in words
        async with StoreConnection(f"{url}?ssl_cert_reqs=none") as store:
            await store.check_server()


async def test_a_certificate_of_another_host_is_refused_unless_told_otherwise(server, ca):
    async with secured(server, ca, address="192.0.2.1") as url:
        assert "names in their certificates" in await refusal(f"{url}?ssl_ca_certs={ca.file}")
        options = f"?ssl_ca_certs={ca.file}&ssl_check_hostname=false"
        async with StoreConnection(url + options) as store:
            await store.check_server()


async def test_a_store_that_demands_a_certificate_gets_ours(server, ca, stranger):
    async with secured(server, ca, clients_of=ca) as url:
        trusting = f"{url}?ssl_ca_certs={ca.file}"
        assert "ssl_certfile and ssl_keyfile" in await refusal(trusting)
        for authority, accepted in ((stranger, False), (ca, True)):
            chain, key = authority.issue("daemon")
            options = f"&ssl_certfile={chain}&ssl_keyfile={key}"
            if not accepted:
                assert "does not accept the certificate" in await refusal(trusting + options)
                continue
            async with StoreConnection(trusting + options) as store:
                await store.check_server()
                await run_session(store, server.command, namespace=fresh("mtls"))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_file_that_is_no_certificate_is_named(server, ca, tmp_path, content):
    broken = tmp_path / "broken.pem"
    if content is not None:
        broken.write_bytes(content)
    chain, key = ca.issue("daemon")
    async with secured(server, ca) as url:
        for options in (
            f"ssl_ca_certs={broken}",
            f"ssl_ca_certs={ca.file}&ssl_certfile={broken}",
            f"ssl_ca_certs={ca.file}&ssl_certfile={chain}&ssl_keyfile={broken}",
        ):
            words = await refusal(f"{url}?{options}")
            assert str(broken) in words
            assert "cannot be used" in words
        other = TestAuthority(tmp_path, "other").issue("x")[1]
        words = await refusal(f"{url}?ssl_certfile={chain}&ssl_keyfile={other}")
        assert "ssl_keyfile" in words
    assert key.exists()


async def test_a_port_that_does_not_speak_tls_says_so():
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR no handshake was expected\r\n")
        writer.close()

    plain = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        assert "does not speak TLS" in await refusal(f"rediss://{USER}:{SECRET}@127.0.0.1:{port}")


async def test_a_cluster_over_tls_is_encrypted_on_every_connection(ca):
    front = free_port()
    announced = ("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(front))
    clustered = ("--cluster-enabled", "yes", *announced, "--notify-keyspace-events", "K$")
    async with valkey_server(*clustered, tcp=True) as node:
        await give(node, "CLUSTER ADDSLOTSRANGE 0 16383")
        async with asyncio.timeout(10):
            await node.replies("CLUSTER INFO", "cluster_state:ok")
        assert node.port is not None
        with tls_front(front, node.port, server_context(*ca.issue("server"))):
            url = f"rediss+cluster://127.0.0.1:{front}?ssl_ca_certs={ca.file}"
            async with StoreConnection(url) as store:
                await store.check_server()
                seen = await run_session(store, node.command, namespace="secret")
                assert seen.followed_by == "notify"
            assert "certificate is not accepted" in await refusal(url.partition("?")[0])


async def test_sentinels_and_their_primary_are_both_reached_over_tls(server, ca):
    context = server_context(*ca.issue("server"))
    primary, watcher = free_port(), free_port()
    assert server.port is not None
    with short_directory() as directory:
        sentinel = _sentinel_of(directory, primary)
        assert sentinel.port is not None
        with (
            tls_front(primary, server.port, context),
            tls_front(watcher, sentinel.port, context),
        ):
            try:
                await sentinel.start()
                bare = f"rediss+sentinel://127.0.0.1:{watcher}/fleet"
                url = bare.replace("//", f"//{USER}:{SECRET}@") + f"?ssl_ca_certs={ca.file}"
                async with StoreConnection(url) as store:
                    await store.check_server()
                    seen = await run_session(store, server.command, namespace=fresh("watched"))
                    assert seen.followed_by == "notify"
                assert "certificate is not accepted" in await refusal(bare)
            finally:
                sentinel.kill()


def _sentinel_of(directory: Path, port: int) -> ValkeyServer:
    config = directory / "sentinel.conf"
    config.write_text(f"dir {directory}\nsentinel monitor fleet 127.0.0.1 {port} 1\n")
    return ValkeyServer(directory, "--sentinel", port=free_port(), config=config)


async def test_a_daemon_ends_at_a_certificate_that_it_does_not_trust(server, ca):
    async with secured(server, ca) as url:
        with pytest.raises(DaemonError, match="certificate is not accepted") as ended:
            _daemon_serves(url)
        assert SECRET not in str(ended.value)
        _daemon_serves(f"{url}?ssl_ca_certs={ca.file}")


def _daemon_serves(url: str) -> None:
    with running_daemon(store=url, grace_seconds=1.0) as daemon:
        assert SECRET not in daemon.log + (daemon.directory / "announced").read_text()


async def test_a_wrong_password_ends_a_daemon_without_showing_it(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("wrong-" + SECRET)
    for url in (
        url_for(server).replace(SECRET, "wrong-" + SECRET),
        server.url.replace("//", f"//{USER}@") + f"?password_file={secret}",
    ):
        with (
            pytest.raises(DaemonError, match="refuses the credentials") as ended,
            running_daemon(store=url),
        ):
            pass
        assert SECRET not in str(ended.value)


async def test_a_password_file_is_read_again_for_each_connection(server, tmp_path):
    user = fresh("user")
    await give(server, rule_for(user))
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    url = server.url.replace("//", f"//{user}@") + f"?password_file={secret}"
    async with StoreConnection(url) as store:
        await store.check_server()
        await give(server, f"ACL SETUSER {user} resetpass >another")
        await server.command(f"CLIENT KILL USER {user}")
        with pytest.raises(StoreUnavailable):
            await store.ping()
        secret.write_text("another")
        await store.ping()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file"), (b"", "1-4096"), (b"\n", "1-4096"),
     (b"\xff\xfe", "not UTF-8"), (b"x" * 5000, "1-4096")],
)  # fmt: skip
async def test_a_password_file_that_holds_none_is_named(server, tmp_path, content, words):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    async with StoreConnection(f"{server.url}?password_file={secret}") as store:
        with pytest.raises(StoreConfigurationError, match=f"password_file .*{words}"):
            await store.check_server()
