"""Who shows what: recognised exactly, remembered, and forgotten in time."""

import time
import tracemalloc

import pytest

from controlplane.domain.access.refusals import (
    CredentialExpired,
    CredentialInvalid,
    CredentialRevoked,
    Unauthenticated,
)
from controlplane.domain.identity import AgentIdentity, CallerKind
from controlplane.services.access import authenticator as module
from controlplane.services.access.authenticator import Authenticator
from controlplane.services.access.ports import VerifiedToken
from tests.fakes.clock import START_MS
from tests.fakes.credentials import TRUST_DOMAIN
from tests.fakes.identity_plane import ADMIN, TENANT, IdentityPlane

OWN_AGENT = f"spiffe://{TRUST_DOMAIN}/ns/{TENANT}/agent/ann"
FOREIGN_AGENT = f"spiffe://prod.example/ns/{TENANT}/sa/ann"
JWT = "eyJhbGciOiJFZERTQSJ9.e30.c2ln"


@pytest.fixture
async def plane():
    plane = IdentityPlane()
    await plane.add_namespace()
    return plane


def refusal_of(plane, token, kind=Unauthenticated):
    with pytest.raises(kind) as refused:
        plane.authenticator.by_bearer(token)
    return refused.value


async def test_an_api_token_is_who_it_says(plane):
    minted = await plane.api_token()
    caller = plane.authenticator.by_bearer(minted.secret)
    subject = f"token:{minted.token.token_id}"
    assert (caller.name, caller.kind, caller.subjects) == (
        subject,
        CallerKind.API_TOKEN,
        (subject,),
    )
    assert (caller.credential, caller.token_id) == (subject, minted.token.token_id)
    assert caller.expires_at_ms == minted.token.expires_at_ms
    assert not caller.is_admin
    assert caller.agent is None


async def test_a_token_that_was_seen_before_is_the_same_object(plane):
    minted = await plane.api_token()
    caller = plane.authenticator.by_bearer(minted.secret)
    assert plane.authenticator.by_bearer(minted.secret) is caller
    await plane.api_token()  # anything about rights changes
    assert plane.authenticator.by_bearer(minted.secret) is caller


@pytest.mark.parametrize(
    "alter",
    [
        lambda s: s.replace("at-", "AT-"),
        lambda s: s.upper(),
        lambda s: s.lower() if s.lower() != s else s.upper(),
        lambda s: s[:-1] + ("A" if s[-1] != "A" else "E"),
        lambda s: s + "\0",
        lambda s: "\0" + s,
        lambda s: s[:20] + "\u202e" + s[20:],
        lambda s: s + "\u200b",
        lambda s: s + " ",
        lambda s: " " + s,
        lambda s: s + "\n",
        lambda s: s + "=",
        lambda s: s.partition(".")[0],
        lambda s: s.partition(".")[0] + ".",
        lambda s: "." + s.partition(".")[2],
        lambda s: s + "." + s,
        lambda s: f"token:{s}",
        lambda s: f"Bearer {s}",
        lambda s: s.replace("-", "\u2010", 1),
        lambda s: s + "\ud800",
        lambda _: "",
        lambda _: "at-",
        lambda _: "at-bootstrap." + "A" * 43,
        lambda _: "at-" + "9" * 100_000,
    ],
)
async def test_nothing_but_the_secret_itself_is_accepted(plane, alter):
    minted = await plane.api_token()
    plane.authenticator.by_bearer(minted.secret)  # a memory of it helps nobody
    shown = alter(minted.secret)
    refused = refusal_of(plane, shown, CredentialInvalid)
    random_part = minted.secret.partition(".")[2]
    said = repr(refused) + refused.message + repr(refused.metadata)
    assert random_part not in said
    assert not shown or shown not in said


async def test_another_tokens_identity_with_this_secret_is_nobody(plane):
    one, other = await plane.api_token(), await plane.api_token()
    random_part = one.secret.partition(".")[2]
    mixed = refusal_of(plane, f"{other.token.token_id}.{random_part}", CredentialInvalid)
    unknown = refusal_of(plane, f"at-0.{random_part}", CredentialInvalid)
    assert mixed.message == unknown.message  # nobody learns which identities exist


async def test_a_join_token_is_no_bearer_token(plane):
    minted = await plane.join_token()
    refused = refusal_of(plane, minted.secret, CredentialInvalid)
    assert "Enroll" in refused.message
    assert minted.secret not in refused.message


async def test_the_digest_of_a_secret_is_not_a_credential(plane):
    minted = await plane.api_token()
    refusal_of(plane, minted.token.digest, CredentialInvalid)
    refusal_of(plane, f"{minted.token.token_id}.{minted.token.digest[:43]}", CredentialInvalid)


async def test_a_revoked_token_is_told_so_at_once(plane):
    minted = await plane.api_token()
    plane.authenticator.by_bearer(minted.secret)
    await plane.api_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ADMIN)
    await plane.catch_up()
    refused = refusal_of(plane, minted.secret, CredentialRevoked)
    assert refused.metadata == {"token_id": minted.token.token_id}
    # Only who knows the secret learns that it was good once.
    refusal_of(plane, minted.token.token_id + "." + "A" * 43, CredentialInvalid)


async def test_a_token_ends_when_it_says_however_often_it_was_seen(plane):
    minted = await plane.api_token(ttl_ms=5_000)
    plane.authenticator.by_bearer(minted.secret)
    plane.clock.shift(4.999)
    plane.authenticator.by_bearer(minted.secret)
    plane.clock.shift(0.001)
    refusal_of(plane, minted.secret, CredentialExpired)
    refusal_of(plane, minted.secret, CredentialExpired)


async def test_a_user_is_known_by_name_and_groups_and_verified_once(plane):
    plane.verifier.known[JWT] = VerifiedToken(
        user="ann", groups=("ops", "ops", "a\nb", ""), expires_at_ms=START_MS + 60_000
    )
    caller = plane.authenticator.by_bearer(JWT)
    assert (caller.name, caller.kind) == ("user:ann", CallerKind.USER)
    assert caller.subjects == ("user:ann", "group:ops")
    assert JWT not in caller.credential
    await plane.api_token()  # rights change: a token of somebody else does not depend on them
    assert plane.authenticator.by_bearer(JWT) is caller
    assert plane.verifier.calls == 1
    plane.clock.shift(60)
    refusal_of(plane, JWT, CredentialExpired)


@pytest.mark.parametrize("user", ["", "a\0b", "a\u202eb", "a\nb", "x" * 600])
async def test_a_user_that_no_binding_can_name_is_nobody(plane, user):
    plane.verifier.known[JWT] = VerifiedToken(user=user, groups=(), expires_at_ms=START_MS + 1)
    refused = refusal_of(plane, JWT, CredentialInvalid)
    assert not user or user not in refused.message


async def test_a_users_token_without_an_end_is_not_good_for_ever(plane):
    plane.verifier.known[JWT] = VerifiedToken(user="ann", groups=(), expires_at_ms=0)
    refusal_of(plane, JWT, CredentialInvalid)


async def test_a_user_cannot_call_himself_a_group_or_a_token(plane):
    plane.verifier.known[JWT] = VerifiedToken(
        user="group:ops", groups=("user:root",), expires_at_ms=START_MS + 1
    )
    caller = plane.authenticator.by_bearer(JWT)
    assert caller.subjects == ("user:group:ops", "group:user:root")
    assert not caller.is_admin


async def test_admins_of_the_settings_are_admins(plane):
    plane.verifier.known[JWT] = VerifiedToken(user="root", groups=(), expires_at_ms=START_MS + 1)
    assert plane.authenticator.by_bearer(JWT).is_admin


async def test_without_an_identity_provider_only_api_tokens_are_accepted(plane):
    lonely = Authenticator(
        plane.read_model, plane.clock, verifier=None, reader=None, trust_domain=TRUST_DOMAIN
    )
    with pytest.raises(CredentialInvalid) as refused:
        lonely.by_bearer(JWT)
    assert JWT not in refused.value.message
    with pytest.raises(CredentialInvalid):
        lonely.by_certificate(plane.reader.add(OWN_AGENT))
    minted = await plane.api_token()
    assert lonely.by_bearer(minted.secret).token_id == minted.token.token_id


async def test_an_own_certificate_of_an_agent_is_that_agent(plane):
    pem = plane.reader.add(OWN_AGENT, not_after_ms=START_MS + 1_000)
    caller = plane.authenticator.by_certificate(pem)
    assert (caller.name, caller.kind, caller.subjects) == (
        OWN_AGENT,
        CallerKind.AGENT,
        (OWN_AGENT,),
    )
    assert caller.agent == AgentIdentity(namespace=TENANT, agent_name="ann")
    assert caller.credential.startswith("cert:")
    assert caller.expires_at_ms == START_MS + 1_000
    assert plane.authenticator.by_certificate(pem) is caller
    assert plane.reader.reads == 1
    plane.clock.shift(1)
    with pytest.raises(CredentialExpired):
        plane.authenticator.by_certificate(pem)


async def test_a_renewed_certificate_is_the_same_agent_with_another_credential(plane):
    first = plane.authenticator.by_certificate(plane.reader.add(OWN_AGENT, serial=1))
    second = plane.authenticator.by_certificate(plane.reader.add(OWN_AGENT, serial=2))
    assert first.agent == second.agent
    assert first.credential != second.credential


@pytest.mark.parametrize(
    ("spiffe_id", "own", "kind"),
    [
        (FOREIGN_AGENT, False, CallerKind.AGENT),
        ("spiffe://prod.example/ns/team-a/db/ann", False, CallerKind.WORKLOAD),
        ("spiffe://other.example/ns/team-a/sa/ann", False, CallerKind.WORKLOAD),
        ("spiffe://other.example/ns/team-a/agent/ann", False, CallerKind.WORKLOAD),
        (f"spiffe://{TRUST_DOMAIN}/daemon", True, CallerKind.WORKLOAD),
        (f"spiffe://{TRUST_DOMAIN}/ns/team-a/sa/ann", True, CallerKind.WORKLOAD),
    ],
)
async def test_a_foreign_authority_makes_agents_by_the_rule_only(plane, spiffe_id, own, kind):
    caller = plane.authenticator.by_certificate(plane.reader.add(spiffe_id, own=own))
    assert caller.kind is kind
    assert (caller.agent is not None) == (kind is CallerKind.AGENT)
    assert caller.subjects == (spiffe_id,)


@pytest.mark.parametrize(
    ("spiffe_id", "own"),
    [
        (OWN_AGENT, False),
        (f"spiffe://{TRUST_DOMAIN}/anything", False),
        (OWN_AGENT.replace("fleetplane", "Fleetplane"), False),
        (OWN_AGENT.replace("spiffe", "SPIFFE"), False),
        (OWN_AGENT.replace("/ns/", "/x/../ns/"), False),
        (OWN_AGENT.replace("ann", "%61nn"), False),
        (OWN_AGENT + "\0", True),
        (OWN_AGENT + "\u202e", True),
        (FOREIGN_AGENT, True),
        ("", True),
        ("*", True),
    ],
)
async def test_no_authority_speaks_for_the_trust_domain_of_another(plane, spiffe_id, own):
    with pytest.raises(CredentialInvalid):
        plane.authenticator.by_certificate(plane.reader.add(spiffe_id, own=own))


@pytest.mark.parametrize("pem", [b"", b"garbage", b"\0" * 100])
async def test_what_is_no_certificate_is_refused(plane, pem):
    with pytest.raises(CredentialInvalid):
        plane.authenticator.by_certificate(pem)


def test_a_rule_for_our_own_trust_domain_is_a_mistake_of_the_settings():
    plane = IdentityPlane()
    with pytest.raises(ValueError, match=r"built-in authority"):
        Authenticator(
            plane.read_model,
            plane.clock,
            verifier=None,
            reader=None,
            trust_domain="prod.example",
            agent_identity="spiffe://prod.example/{agent_name}",
        )


async def test_what_is_remembered_is_bounded(plane, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 10)
    for number in range(30):
        token = f"{JWT}{number}"
        plane.verifier.known[token] = VerifiedToken(
            user="ann", groups=(), expires_at_ms=START_MS + 1
        )
        plane.authenticator.by_bearer(token)
        plane.authenticator.by_certificate(plane.reader.add(OWN_AGENT, serial=number))
    assert len(plane.authenticator._bearers) == 10
    assert len(plane.authenticator._certificates) == 10


async def test_refused_tokens_are_not_remembered(plane):
    for number in range(100):
        refusal_of(plane, f"at-{number}.{'A' * 43}", CredentialInvalid)
    assert plane.authenticator._bearers == {}


async def test_every_use_of_an_api_token_is_told(plane):
    told: list[str] = []
    authenticator = Authenticator(
        plane.read_model,
        plane.clock,
        verifier=plane.verifier,
        reader=None,
        trust_domain=TRUST_DOMAIN,
        on_token_use=told.append,
    )
    minted = await plane.api_token()
    plane.verifier.known[JWT] = VerifiedToken(user="a", groups=(), expires_at_ms=START_MS + 1)
    for _ in range(2):
        authenticator.by_bearer(minted.secret)
        authenticator.by_bearer(JWT)
    assert told == [minted.token.token_id] * 2


async def test_recognising_again_costs_microseconds_and_no_memory(plane):
    minted = await plane.api_token()
    pem = plane.reader.add(OWN_AGENT)

    def thousand():
        for _ in range(1000):
            plane.authenticator.by_bearer(minted.secret)
            plane.authenticator.by_certificate(pem)

    thousand()
    spent = min(_seconds(thousand) for _ in range(5))
    assert spent / 2000 < 20e-6  # 1-2 us; the bound is for busy machines
    tracemalloc.start()
    thousand()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10_000


def _seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


async def test_from_when_on_it_is_valid_is_known_of_our_own_agents_only(plane):
    def valid_from(spiffe_id, *, own):
        pem = plane.reader.add(spiffe_id, own=own, not_before_ms=START_MS)
        return plane.authenticator.by_certificate(pem).valid_from_ms

    assert valid_from(OWN_AGENT, own=True) == START_MS
    assert valid_from(FOREIGN_AGENT, own=False) == 0
