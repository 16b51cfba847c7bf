"""Where the keys of an identity provider come from, and what becomes of them when it is away."""

import asyncio
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.credentials import jwks_sources
from controlplane.credentials.jwks import (
    ASK_AGAIN_SECONDS,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    IssuerKeys,
)
from controlplane.credentials.jwks_sources import MAX_ANSWER_BYTES, check_url, key_source
from controlplane.credentials.oidc import OidcVerifier
from controlplane.domain.access.refusals import CredentialInvalid
from controlplane.domain.errors import NotReady
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.eventually import eventually
from tests.fakes.issuer import AUDIENCE, DESCRIPTION_PATH, KEYS_PATH, Issuer, running_issuer

NOW = START_MS / 1000


@pytest.fixture
async def issuer():
    async with running_issuer() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def keys(issuer: Issuer, clock: FakeClock) -> IssuerKeys:
    known = IssuerKeys(key_source(issuer.url, ""), clock)
    assert await known.refresh()
    return known


def verifier(issuer: Issuer, keys: IssuerKeys) -> OidcVerifier:
    return OidcVerifier(
        keys,
        issuer=issuer.url,
        audience=AUDIENCE,
        algorithms=frozenset({"ES256"}),
        wall_clock=lambda: NOW,
    )


def refusal(one: OidcVerifier, token: str) -> str:
    with pytest.raises(CredentialInvalid) as refused:
        one.verify(token)
    return refused.value.metadata["why"]


async def test_a_new_key_is_asked_for_but_not_at_the_whim_of_whoever_sends_tokens(
    issuer, keys, clock
):
    one = verifier(issuer, keys)
    running = asyncio.create_task(keys.run())
    try:
        await eventually("asked when it starts", lambda: issuer.asked.count(KEYS_PATH) == 2)
        await eventually("waits", lambda: clock.sleepers == 1)
        issuer.keys["new"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish()
        token = issuer.token("new", "ES256", exp=NOW + 60)
        for _ in range(100):
            assert refusal(one, token) == "it is signed with a key that the issuer does not publish"
        await clock.advance(ASK_AGAIN_SECONDS - 1)
        assert issuer.asked.count(KEYS_PATH) == 2
        await clock.advance(2)
        await eventually("asked again", lambda: issuer.asked.count(KEYS_PATH) == 3)
        await eventually("waits again", lambda: clock.sleepers == 1)
        assert one.verify(token).user == "ann"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_key_that_is_withdrawn_is_refused_after_the_next_look(issuer, keys, clock):
    one, token = verifier(issuer, keys), issuer.token("k1", "ES256", exp=NOW + 600)
    assert one.verify(token).user == "ann"
    running = asyncio.create_task(keys.run())
    try:
        await eventually("waits", lambda: clock.sleepers == 1)
        del issuer.keys["k1"]
        issuer.publish()
        await clock.advance(REFRESH_SECONDS + 1)
        await eventually("asked again", lambda: clock.sleepers == 1 and len(issuer.asked) >= 6)
        assert "does not publish" in refusal(one, token)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_last_good_keys_are_used_while_the_issuer_is_away(issuer, keys, caplog):
    one, token = verifier(issuer, keys), issuer.token("k1", "ES256", exp=NOW + 60)
    issuer.answer(KEYS_PATH, {}, status=503)
    assert not await keys.refresh()
    assert not await keys.refresh()
    assert one.verify(token).user == "ann"
    assert caplog.text.count("going on with those known") == 1


async def test_an_issuer_that_is_away_at_the_start_is_asked_until_it_answers(issuer, clock):
    issuer.answer(DESCRIPTION_PATH, {}, status=500)
    keys = IssuerKeys(key_source(issuer.url, ""), clock)
    one, token = verifier(issuer, keys), issuer.token("k1", "ES256", exp=NOW + 60)
    running = asyncio.create_task(keys.run())
    try:
        await eventually("asked", lambda: clock.sleepers == 1)
        with pytest.raises(NotReady, match="not known yet"):
            one.verify(token)
        described = {"issuer": issuer.url, "jwks_uri": issuer.url + KEYS_PATH}
        issuer.answer(DESCRIPTION_PATH, described)
        await clock.advance(RETRY_SECONDS + 1)
        await eventually("answered", lambda: KEYS_PATH in issuer.asked and clock.sleepers == 1)
        assert one.verify(token).user == "ann"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [7, null, {"kty": 5}]}',
        b"[" * 100_000,
        b" " * (MAX_ANSWER_BYTES + 1),
    ],
    ids=range(9),
)
async def test_an_answer_that_is_no_key_set_changes_nothing(issuer, keys, answer):
    issuer.answer(KEYS_PATH, answer)
    assert not await keys.refresh()
    token = issuer.token("k1", "ES256", exp=NOW + 60)
    assert verifier(issuer, keys).verify(token).user == "ann"


@pytest.mark.parametrize(
    "described",
    [
        {},
        [],
        {"issuer": "https://other", "jwks_uri": "KEYS"},
        {"issuer": "ISSUER", "jwks_uri": "http://login.example/keys"},
        {"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "ISSUER", "jwks_uri": 7},
    ],
    ids=str,
)
async def test_a_description_that_leads_elsewhere_is_refused(issuer, clock, described):
    text = json.dumps(described).replace("ISSUER", issuer.url).replace("KEYS", issuer.url + "/keys")
    issuer.answer(DESCRIPTION_PATH, text.encode())
    assert not await IssuerKeys(key_source(issuer.url, ""), clock).refresh()
    assert KEYS_PATH not in issuer.asked


async def test_a_redirect_is_not_followed(issuer, clock):
    issuer.answer("/moved", b"", status=302, Location=issuer.url + KEYS_PATH)
    assert not await IssuerKeys(key_source(issuer.url, issuer.url + "/moved"), clock).refresh()
    assert issuer.asked == ["/moved"]


async def test_an_issuer_that_does_not_answer_is_given_up(clock, monkeypatch):
    monkeypatch.setattr(jwks_sources, "FETCH_SECONDS", 0.2)
    hung = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hung.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, asyncio.timeout(10):
        try:
            assert not await IssuerKeys(key_source(url, ""), clock).refresh()
        finally:
            hung.set()


async def test_an_answer_that_comes_drop_by_drop_holds_no_thread(clock, monkeypatch):
    monkeypatch.setattr(jwks_sources, "FETCH_TOTAL_SECONDS", 0.3)
    hung_up = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        hung_up.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(10):
        assert not await IssuerKeys(key_source(url, ""), clock).refresh()
        await hung_up.wait()
    server.close()


async def test_a_token_with_a_new_key_may_come_again_once_the_issuer_was_asked(issuer, keys, clock):
    one = verifier(issuer, keys)
    issuer.keys["new"] = ec.generate_private_key(ec.SECP256R1())
    issuer.publish()
    token = issuer.token("new", "ES256", exp=NOW + 60)
    await clock.advance(ASK_AGAIN_SECONDS + 1)
    with pytest.raises(NotReady, match="is asked whether it has new keys"):
        one.verify(token)
    assert await keys.refresh()
    assert one.verify(token).user == "ann"
    issuer.keys["unpublished"] = ec.generate_private_key(ec.SECP256R1())
    token = issuer.token("unpublished", "ES256", exp=NOW + 60)
    assert "does not publish" in refusal(one, token)


async def test_keys_in_a_file_are_read_again_when_it_changes(issuer, clock, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.pages[KEYS_PATH][2])
    keys = IssuerKeys(key_source(issuer.url, str(path)), clock)
    running = asyncio.create_task(keys.run())
    try:
        await eventually("read", lambda: clock.sleepers == 1)
        one = verifier(issuer, keys)
        issuer.keys["new"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish()
        path.write_bytes(issuer.pages[KEYS_PATH][2])
        await clock.advance(1)
        await eventually("read again", lambda: clock.sleepers == 1)
        assert one.verify(issuer.token("new", "ES256", exp=NOW + 60)).user == "ann"
        path.unlink()
        await clock.advance(1)
        assert one.verify(issuer.token("new", "ES256", exp=NOW + 60)).user == "ann"
        assert issuer.asked == []
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "ftp://x/", "https://", "http://[::1", "x"])
def test_a_url_whose_answers_can_be_forged_is_refused(url):
    with pytest.raises(ValueError, match="must be an https URL"):
        check_url(url)
