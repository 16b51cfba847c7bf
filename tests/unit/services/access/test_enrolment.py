"""Enrolment: nothing is handed out that the token, the ban list and the count do not allow."""

import asyncio
import logging
from dataclasses import replace

import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE, uses_counter
from controlplane.domain.access.refusals import (
    AgentBanned,
    CredentialExpired,
    CredentialInvalid,
    CredentialMissing,
    CredentialRevoked,
    EarlierNamespace,
    NamespaceTerminating,
    NoCertificateAuthority,
    PermissionDenied,
)
from controlplane.domain.errors import DomainError, InvalidArgument, StoreUnavailable
from controlplane.domain.identity import LOCAL_ADMIN
from controlplane.domain.namespaces import NamespaceState
from controlplane.domain.token_bucket import BURST_SECONDS
from controlplane.services.access.enrolment import LOGGED_PER_SECOND, Enrolment
from tests.fakes.clock import START_MS
from tests.fakes.credentials import GOOD_CSR
from tests.fakes.identity_plane import (
    ADMIN,
    HOUR_MS,
    NOBODY,
    TENANT,
    IdentityPlane,
    InterferingLedger,
    YieldingLedger,
    admin_of,
    agent_caller,
)


@pytest.fixture
async def plane():
    plane = IdentityPlane(InterferingLedger)
    await plane.add_namespace()
    return plane


async def enroll(plane, secret, name="ann", csr=GOOD_CSR):
    return await plane.enrolment.enroll(secret, name, csr, caller=NOBODY)


async def refusal_of(plane, secret, kind=DomainError, **fields):
    with pytest.raises(kind) as refused:
        await enroll(plane, secret, **fields)
    return refused.value


async def uses_of(plane, token):
    (uses,) = await plane.ledger.read_counts(SYSTEM_NAMESPACE, [uses_counter(token.token_id)])
    return uses


async def test_a_join_token_is_exchanged_for_the_identity_of_an_agent(plane):
    minted = await plane.join_token()
    enrolled = await enroll(plane, minted.secret)
    assert enrolled.spiffe_id == f"spiffe://fleetplane.local/ns/{TENANT}/agent/ann"
    assert enrolled.agent.namespace == TENANT
    assert enrolled.certificate.chain_pem.endswith(enrolled.spiffe_id)
    assert enrolled.renew_after_ms == START_MS + HOUR_MS // 2
    assert await uses_of(plane, minted.token) == 1
    entry = (await plane.audit())[-1]
    assert (entry.actor, entry.method, entry.event) == (
        f"join:{minted.token.token_id}",
        "Enroll",
        "agent.enrolled",
    )
    assert entry.details["namespace"] == TENANT
    assert entry.details["fingerprint"] == enrolled.certificate.fingerprint
    assert minted.secret not in repr(entry)


@pytest.mark.parametrize(("dice", "part"), [(0.0, 0.45), (0.5, 0.5), (0.999999, 0.55)])
async def test_renewals_are_spread_around_half_the_life(dice, part):
    plane = IdentityPlane(spread=lambda: dice)
    await plane.add_namespace()
    minted = await plane.join_token()
    enrolled = await enroll(plane, minted.secret)
    assert abs(enrolled.renew_after_ms - START_MS - HOUR_MS * part) < 10


@pytest.mark.parametrize(
    "alter",
    [
        lambda s: s.replace("jt-", "JT-"),
        lambda s: s.replace("jt-", "at-"),
        lambda s: s.swapcase(),
        lambda s: s[:-1] + ("A" if s[-1] != "A" else "E"),
        lambda s: s + "\0",
        lambda s: s[:9] + "\0" + s[9:],
        lambda s: s[:9] + "\u202e" + s[9:],
        lambda s: s + "\u200f",
        lambda s: s + "\n",
        lambda s: s.partition(".")[0],
        lambda s: s + "." + s,
        lambda s: "." + s.partition(".")[2],
        lambda s: "jt-0." + s.partition(".")[2],
        lambda s: s.partition(".")[0] + "." + "A" * 43,
        lambda s: s + "\ud800",
        lambda _: "jt-",
        lambda _: "jt-" + "9" * 100_000,
    ],
)
async def test_nothing_but_the_secret_enrols(plane, alter, caplog):
    minted = await plane.join_token()
    shown, random_part = alter(minted.secret), minted.secret.partition(".")[2]
    with caplog.at_level(logging.WARNING):
        refused = await refusal_of(plane, shown, CredentialInvalid)
    said = refused.message + repr(refused.metadata) + repr([vars(r) for r in caplog.records])
    assert random_part not in said
    assert "A" * 43 not in said
    assert len(said) < 5_000
    assert plane.authority.signed == []
    assert await uses_of(plane, minted.token) == 0


async def test_another_tokens_identity_with_this_secret_reads_like_an_unknown_one(plane):
    one, other = await plane.join_token(), await plane.join_token()
    random_part = one.secret.partition(".")[2]
    mixed = await refusal_of(plane, f"{other.token.token_id}.{random_part}", CredentialInvalid)
    unknown = await refusal_of(plane, f"jt-0.{random_part}", CredentialInvalid)
    assert (mixed.message, mixed.metadata) == (unknown.message, unknown.metadata)


async def test_an_api_token_enrols_nobody(plane):
    minted = await plane.api_token(role="admin")
    await refusal_of(plane, minted.secret, CredentialInvalid)


async def test_a_revoked_token_enrols_nobody_even_where_it_is_not_known_yet(plane):
    minted = await plane.join_token(max_uses=0)
    await plane.join_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ADMIN)
    # This replica does not follow: what counts is the ledger.
    refused = await refusal_of(plane, minted.secret, CredentialRevoked)
    assert refused.metadata == {"token_id": minted.token.token_id}


async def test_an_expired_token_enrols_nobody(plane):
    minted = await plane.join_token(ttl_ms=1_000)
    plane.clock.shift(1)
    await refusal_of(plane, minted.secret, CredentialExpired)


async def test_a_used_up_token_enrols_nobody(plane):
    minted = await plane.join_token(max_uses=2)
    await enroll(plane, minted.secret, "a")
    await enroll(plane, minted.secret, "b")
    refused = await refusal_of(plane, minted.secret, CredentialRevoked, name="c")
    assert "used up" in refused.message
    assert await uses_of(plane, minted.token) == 2


async def test_a_token_for_any_number_of_uses_counts_them(plane):
    minted = await plane.join_token(max_uses=0)
    for number in range(20):
        await enroll(plane, minted.secret, f"a{number}")
    assert await uses_of(plane, minted.token) == 20


@pytest.mark.parametrize("name", ["ann", "Bot-1", "xbot-1", "bot", "bot_1"])
async def test_a_name_that_the_token_is_not_for_is_refused(plane, name):
    minted = await plane.join_token(agent_name_pattern="bot-*")
    refused = await refusal_of(plane, minted.secret, PermissionDenied, name=name)
    assert minted.secret not in refused.message
    assert await uses_of(plane, minted.token) == 0
    assert (await enroll(plane, minted.secret, "bot-1")).agent.agent_name == "bot-1"


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "../x", "a\0", "a\u202eb", "*", "bot-*", "-x", "a" * 257, "\u00e4"]
)
async def test_a_name_that_is_none_is_refused(plane, name):
    minted = await plane.join_token()
    refused = await refusal_of(plane, minted.secret, InvalidArgument, name=name)
    assert refused.metadata["field"] == "agent_name"
    assert plane.authority.signed == []


async def test_a_banned_name_is_refused_in_its_namespace_only(plane):
    await plane.add_namespace("team-b")
    await plane.bans.ban(TENANT, "ann", reason="", caller=ADMIN)
    minted = await plane.join_token(max_uses=0)
    await refusal_of(plane, minted.secret, AgentBanned)
    await enroll(plane, minted.secret, "bob")
    other = await plane.join_token("team-b")
    await enroll(plane, other.secret)


async def test_nobody_enrols_into_a_namespace_that_is_being_removed(plane):
    minted = await plane.join_token()
    await plane.add_namespace(TENANT, NamespaceState.TERMINATING)
    await refusal_of(plane, minted.secret, NamespaceTerminating)


async def test_a_malformed_csr_costs_no_use(plane):
    minted = await plane.join_token()
    refused = await refusal_of(plane, minted.secret, InvalidArgument, csr="nonsense")
    assert refused.metadata["field"] == "csr"
    assert await uses_of(plane, minted.token) == 0


async def test_without_an_authority_nobody_enrols(plane):
    minted = await plane.join_token()
    enrolment = Enrolment(plane.ledger, plane.clock, None)
    with pytest.raises(NoCertificateAuthority):
        await enrolment.enroll(minted.secret, "ann", GOOD_CSR, caller=NOBODY)
    with pytest.raises(NoCertificateAuthority):
        await enrolment.renew(GOOD_CSR, caller=agent_caller("ann"))


async def test_uses_are_counted_exactly_once_under_fifty_enrolments_at_a_time():
    plane = IdentityPlane(YieldingLedger)
    await plane.add_namespace()
    minted = await plane.join_token(max_uses=7)
    outcomes = await asyncio.gather(
        *(enroll(plane, minted.secret, f"agent-{number}") for number in range(50)),
        return_exceptions=True,
    )
    given = [one for one in outcomes if not isinstance(one, BaseException)]
    assert len(given) == 7
    assert len({one.certificate.fingerprint for one in given}) == 7
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert {type(one) for one in refused} == {CredentialRevoked}
    assert await uses_of(plane, minted.token) == 7
    assert sum(entry.method == "Enroll" for entry in await plane.audit()) == 7


@pytest.mark.parametrize(
    ("happens", "refused"),
    [
        ("the token is revoked", CredentialRevoked),
        ("the name is banned", AgentBanned),
        ("the namespace is being removed", NamespaceTerminating),
    ],
)
async def test_what_changes_at_the_last_moment_is_seen(plane, happens, refused):
    minted = await plane.join_token()

    async def revoke():
        await plane.join_tokens.revoke(TENANT, minted.token.token_id, reason="", caller=ADMIN)

    async def ban():
        await plane.bans.ban(TENANT, "ann", reason="", caller=ADMIN)

    async def remove():
        await plane.add_namespace(TENANT, NamespaceState.TERMINATING)

    plane.ledger.before_commit.append(
        {
            "the token is revoked": revoke,
            "the name is banned": ban,
            "the namespace is being removed": remove,
        }[happens]
    )
    await refusal_of(plane, minted.secret, refused)
    assert await uses_of(plane, minted.token) == 0


async def test_a_change_that_does_not_matter_costs_a_second_try_only(plane):
    minted = await plane.join_token()
    plane.ledger.before_commit.append(plane.add_namespace)  # written anew, as ACTIVE as before
    assert (await enroll(plane, minted.secret)).agent.agent_name == "ann"
    assert await uses_of(plane, minted.token) == 1


async def test_nothing_is_handed_out_when_the_store_does_not_answer(plane):
    minted = await plane.join_token()

    async def fail():
        raise StoreUnavailable("gone")

    plane.ledger.before_commit.append(fail)
    await refusal_of(plane, minted.secret, StoreUnavailable)


async def test_endless_contention_is_reported(plane):
    minted = await plane.join_token()
    plane.ledger.before_commit.extend([plane.add_namespace, _nothing] * 20)
    await refusal_of(plane, minted.secret, StoreUnavailable)


async def _nothing():
    pass


async def test_refusals_are_logged_with_the_visible_part_and_the_peer_only(plane, caplog):
    minted = await plane.join_token(agent_name_pattern="bot-*")
    with caplog.at_level(logging.WARNING, logger="fleetplane.identity"):
        await refusal_of(plane, minted.secret, PermissionDenied)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = vars(record)
    assert said["token_id"] == minted.token.token_id
    assert said["peer"] == NOBODY.address
    assert said["reason"] == "PERMISSION_DENIED"
    assert minted.secret.partition(".")[2] not in repr(said)
    assert "'ann'" not in repr(said)


async def test_of_a_flood_of_refusals_only_the_first_ones_are_logged(plane, caplog):
    minted = await plane.join_token(agent_name_pattern="bot-*")
    with caplog.at_level(logging.WARNING, logger="fleetplane.identity"):
        for _ in range(100):
            await refusal_of(plane, minted.secret, PermissionDenied)
        logged = len(caplog.records)
        assert logged == LOGGED_PER_SECOND * BURST_SECONDS
        await plane.clock.advance(1.0)
        await refusal_of(plane, minted.secret, PermissionDenied)
    assert vars(caplog.records[-1])["unlogged"] == 100 - logged


async def test_an_agent_renews_what_it_is(plane):
    renewed = await plane.enrolment.renew(GOOD_CSR, caller=agent_caller("ann"))
    assert renewed.spiffe_id == agent_caller("ann").name
    entry = (await plane.audit())[-1]
    assert (entry.actor, entry.event) == (renewed.spiffe_id, "certificate.renewed")


@pytest.mark.parametrize(
    "caller",
    [
        LOCAL_ADMIN,
        NOBODY,
        ADMIN,
        admin_of(TENANT),
        agent_caller("ann", trust_domain="prod.example"),
    ],
    ids=lambda caller: caller.name,
)
async def test_who_has_no_certificate_of_ours_renews_nothing(plane, caller):
    with pytest.raises(CredentialMissing):
        await plane.enrolment.renew(GOOD_CSR, caller=caller)
    assert plane.authority.signed == []


async def test_a_banned_agent_does_not_renew_even_if_the_ban_came_at_the_last_moment(plane):
    async def ban():
        await plane.bans.ban(TENANT, "ann", reason="", caller=ADMIN)

    plane.ledger.before_commit.append(ban)
    with pytest.raises(AgentBanned):
        await plane.enrolment.renew(GOOD_CSR, caller=agent_caller("ann"))


async def test_an_agent_of_a_namespace_that_is_being_removed_does_not_renew(plane):
    await plane.add_namespace(TENANT, NamespaceState.TERMINATING)
    with pytest.raises(NamespaceTerminating):
        await plane.enrolment.renew(GOOD_CSR, caller=agent_caller("ann"))


async def test_an_agent_of_an_earlier_namespace_of_that_name_renews_nothing(plane):
    old = replace(agent_caller("ann"), valid_from_ms=START_MS - HOUR_MS)
    with pytest.raises(EarlierNamespace):
        await plane.enrolment.renew(GOOD_CSR, caller=old)
    assert all(entry.method != "RenewCertificate" for entry in await plane.audit())
