"""docs/production.md is played from its first command to its last, on real daemons.

Stand-ins: free ports for those that are printed; a Valkey behind TLS for the store of everybody,
with the rights of docs/store-security.md; an identity provider whose keys are in a file; and
certificates that live for seconds, so that a rotation is over in the time of a test.
"""

import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.identity_provider import ISSUER, IdentityProvider
from tests.fakes.played_guide import Reader, blocks, reader
from tests.fakes.tls_front import TestAuthority, server_context, tls_front
from tests.fakes.valkey import free_port, short_directory, valkey_server

pytestmark = [pytest.mark.xdist_group("production guide"), pytest.mark.timeout(400)]

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "production.md"
RIGHTS: Final = ROOT / "docs" / "store-security.md"

CERTIFICATE_SECONDS: Final = 12.0
"""Life of the certificates of agents, instead of an hour; half of it is when they are renewed."""

TOKEN_SECONDS: Final = 3600
"""Life of the tokens of people: longer than the test may take."""

STORE_PASSWORD: Final = "the password of the store"  # noqa: S105 - of a store that lives for a test

_PRINTED_ADDRESS: Final = re.compile(r"127\.0\.0\.1:\d{5}")
_STORE: Final = "store.example.com:6380"


def store_rule() -> str:
    """Return the line of access for a standalone server, as the manual prints it."""
    (rule,) = re.findall(
        r'title="Standalone and Sentinel"\nACL SETUSER (.*?)\n```', RIGHTS.read_text()
    )
    return str(rule).replace(">PASSWORD", f'">{STORE_PASSWORD}"')


@contextlib.asynccontextmanager
async def store_with_tls(directory: Path) -> AsyncIterator[int]:
    """A Valkey of which only the port for TLS is known; yields that."""
    authority = TestAuthority(directory, "store-ca")
    context = server_context(*authority.issue("store"))
    async with valkey_server(tcp=True) as server:
        assert server.port is not None
        await server.command("CONFIG SET notify-keyspace-events K$")
        await server.command("CONFIG SET maxmemory-policy noeviction")
        assert "+OK" in await server.command(f"ACL SETUSER {store_rule()}")
        assert "+OK" in await server.command("ACL SETUSER default off")
        port = free_port()
        with tls_front(port, server.port, context):
            yield port


def put_grpcurl(directory: Path) -> None:
    """Let `buf curl`, which the development environment brings, answer for grpcurl."""
    directory.mkdir()
    if shutil.which("grpcurl") is None:
        script = directory / "grpcurl"
        options = "--protocol grpc --cacert \"$2\" -d '{}'"
        script.write_text(f'#!/bin/sh\nbuf curl {options} "https://$3/$4"\n')
        script.chmod(0o755)


def tokens(directory: Path) -> IdentityProvider:
    """Put what the provider gives to two people into files."""
    provider = IdentityProvider(directory)
    people = {"ann": "platform", "bob": "ops"}
    for name, group in people.items():
        ends = int(time.time()) + TOKEN_SECONDS
        token = provider.token(email=f"{name}@example.com", groups=[group], exp=ends)
        (directory / f"{name}.jwt").write_text(token, encoding="utf-8")
    return provider


@contextlib.asynccontextmanager
async def guided() -> AsyncIterator[Reader]:
    with short_directory() as directory:
        (directory / "home").mkdir()
        put_grpcurl(directory / "bin")
        (directory / "examples").symlink_to(ROOT / "examples")
        (directory / "store-password").write_text(STORE_PASSWORD, encoding="utf-8")
        provider = tokens(directory)
        printed = sorted(set(_PRINTED_ADDRESS.findall(PAGE.read_text())))
        addresses = {address: f"127.0.0.1:{free_port()}" for address in printed}
        environment = {
            "FLEETPLANE_ADDRESS": addresses["127.0.0.1:50051"],
            "FLEETPLANE_LISTEN": addresses["127.0.0.1:50051"],
            "FLEETPLANE_RUNTIME_DIR": str(directory),
            "FLEETPLANE_CERTIFICATE_SECONDS": str(CERTIFICATE_SECONDS),
            "FLEETPLANE_OIDC_JWKS": str(provider.jwks),
        }
        async with store_with_tls(directory) as port:
            others = {
                "https://login.example.com": ISSUER,
                _STORE: f"127.0.0.1:{port}",
                "sleep 3600": f"sleep {CERTIFICATE_SECONDS + 1:g}",
            }
            async with reader(directory, environment, addresses | others) as somebody:
                yield somebody


async def play(*pages: str) -> None:
    """Play texts one after the other, and end what they started as a reader would."""
    async with guided() as somebody:
        for page in pages:
            for block in blocks(page):
                await somebody.follow(block)
        for name, terminal in somebody.terminals.items():
            assert await terminal.end() == 0, f"{name}\n{terminal.said}"


async def test_the_guide_runs_as_printed() -> None:
    await play(PAGE.read_text(encoding="utf-8"))


async def test_the_readme_turns_security_on_and_the_manual_of_security_goes_on_from_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, begun, rest = readme.partition("## Turn security on\n")
    section, ended, _ = rest.partition("\n## ")
    assert begun
    assert ended
    await play(section, (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
