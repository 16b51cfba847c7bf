"""Which tokens of an identity provider are believed, and what becomes of its keys."""

import base64
import contextlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controlplane.credentials.jwks import IssuerKeys
from controlplane.credentials.jwks_sources import key_source
from controlplane.credentials.oidc import MAX_TOKEN_BYTES, OidcVerifier
from controlplane.domain.access.refusals import CredentialExpired, CredentialInvalid
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.issuer import (
    AUDIENCE,
    KEYS_PATH,
    Issuer,
    public_pem,
    running_issuer,
)

NOW = START_MS / 1000
LEEWAY = 30


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


def verifier(issuer: Issuer, keys: IssuerKeys, **chosen: Any) -> OidcVerifier:
    chosen = {"algorithms": frozenset({"RS256", "ES256", "EdDSA"})} | chosen
    return OidcVerifier(
        keys,
        issuer=issuer.url,
        audience=AUDIENCE,
        leeway_seconds=LEEWAY,
        wall_clock=lambda: NOW,
        **chosen,
    )


def refusal(one: OidcVerifier, token: str) -> str:
    with pytest.raises(CredentialInvalid) as refused:
        one.verify(token)
    assert token[:20] not in str(refused.value) or len(token) < 20
    return refused.value.metadata["why"]


def unsigned(header: Any, claims: Any) -> str:
    parts = (json.dumps(part).encode() for part in (header, claims))
    return ".".join([base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts]) + "."


@pytest.mark.parametrize(
    ("key_id", "algorithm"), [("k1", "ES256"), ("k2", "RS256"), ("k3", "EdDSA")]
)
async def test_a_good_token_says_who_it_is(issuer, keys, key_id, algorithm):
    token = issuer.token(key_id, algorithm, exp=NOW + 60, groups=["a", "b", "a"])
    said = verifier(issuer, keys).verify(token)
    assert (said.user, said.groups) == ("ann", ("a", "b"))
    assert said.expires_at_ms == START_MS + (60 + LEEWAY) * 1000  # until when it is accepted


async def test_user_and_groups_come_from_the_claims_that_were_chosen(issuer, keys):
    one = verifier(issuer, keys, user_claim="email", groups_claim="role")
    said = one.verify(issuer.token("k1", "ES256", exp=NOW + 60, email="a@b", role="dev"))
    assert (said.user, said.groups) == ("a@b", ("dev",))


async def test_the_audience_may_be_one_of_several(issuer, keys):
    one = verifier(issuer, keys)
    assert one.verify(issuer.token("k1", "ES256", exp=NOW + 60, aud=["x", AUDIENCE])).user == "ann"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://other"}, "it is from another issuer"),
        ({"iss": "ISSUER/"}, "it is from another issuer"),
        ({"iss": None}, "it lacks one of exp, iss and aud"),
        ({"aud": "other"}, "it is for another audience"),
        ({"aud": ["other", "fleets"]}, "it is for another audience"),
        ({"aud": []}, "it lacks one of exp, iss and aud"),
        ({"aud": None}, "it lacks one of exp, iss and aud"),
        ({"aud": 7}, "it is for another audience"),
        ({"exp": None}, "it lacks one of exp, iss and aud"),
        ({"exp": "soon"}, "its 'exp' is not a moment"),
        ({"exp": True}, "its 'exp' is not a moment"),
        ({"exp": 10**400}, "its 'exp' is not a moment"),
        ({"nbf": NOW + LEEWAY + 1}, "it is not valid yet"),
        ({"iat": NOW + LEEWAY + 1}, "it is not valid yet"),
        ({"sub": ""}, "its claim 'sub' is not a name of 1-256 characters"),
        ({"sub": None}, "its claim 'sub' is not a name of 1-256 characters"),
        ({"sub": "x" * 257}, "its claim 'sub' is not a name of 1-256 characters"),
        ({"sub": "a\nb"}, "its claim 'sub' holds characters that do not print"),
        ({"groups": {"a": 1}}, "its claim 'groups' is not a list of names"),
        ({"groups": ["a", 1]}, "its claim 'groups' is not a name of 1-256 characters"),
    ],
    ids=str,
)
async def test_a_wrong_claim_is_refused(issuer, keys, claims, why):
    chosen = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60} | claims
    if chosen["iss"] == "ISSUER/":
        chosen["iss"] = f"{issuer.url}/"
    payload = {name: value for name, value in chosen.items() if value is not None}
    # By hand: the library that makes tokens refuses to make some of these.
    signer = jwt.api_jws.PyJWS()
    token = signer.encode(
        json.dumps(payload).encode(), issuer.keys["k1"], "ES256", headers={"kid": "k1"}
    )
    assert refusal(verifier(issuer, keys), token) == why


async def test_a_token_expires_when_the_leeway_has_passed(issuer, keys):
    one = verifier(issuer, keys)
    assert one.verify(issuer.token("k1", "ES256", exp=NOW - LEEWAY + 1)).user == "ann"
    with pytest.raises(CredentialExpired):
        one.verify(issuer.token("k1", "ES256", exp=NOW - LEEWAY))


async def test_a_token_without_end_ends_with_the_calendar(issuer, keys):
    said = verifier(issuer, keys).verify(issuer.token("k1", "ES256", exp=1e300))
    assert said.expires_at_ms == 253_402_300_799_000


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "ES384", 7, None])
async def test_an_algorithm_outside_the_list_is_refused(issuer, keys, algorithm):
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60}
    token = unsigned({"alg": algorithm, "kid": "k1"}, claims)
    assert refusal(verifier(issuer, keys), token) in {
        "its signature algorithm is not one of those that are accepted",
        "it is malformed",
    }


async def test_a_public_key_is_not_taken_for_a_shared_secret(issuer, keys):
    header = {"alg": "HS256", "kid": "k2"}
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60}
    signed = unsigned(header, claims).rstrip(".")
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        signed.encode(), public_pem(issuer.keys["k2"])
    )
    token = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert "algorithm" in refusal(verifier(issuer, keys), token)


async def test_a_symmetric_key_in_the_key_set_is_not_used(issuer, keys):
    secret = b"x" * 32
    issuer.publish(shared={"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode()})
    assert await keys.refresh()
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60}
    token = jwt.encode(claims, secret, "HS256", headers={"kid": "shared"})
    # Even where somebody lists a symmetric algorithm.
    one = verifier(issuer, keys, algorithms=frozenset({"HS256", "ES256"}))
    assert refusal(one, token) == "it is signed with a key that the issuer does not publish"


async def test_a_token_cannot_choose_an_algorithm_that_its_key_is_not_for(issuer, keys):
    token = issuer.token("k2", "RS256", exp=NOW + 60)
    _, claims, signature = token.split(".")
    header = unsigned({"alg": "ES256", "kid": "k2"}, {}).split(".")[0]
    one = verifier(issuer, keys)
    assert refusal(one, f"{header}.{claims}.{signature}") == (
        "its signature algorithm does not fit its key"
    )


async def test_a_key_is_only_used_with_the_algorithm_that_its_publisher_names(issuer, keys):
    published = json.loads(issuer.pages[KEYS_PATH][2])
    (rsa_key,) = [key for key in published["keys"] if key["kid"] == "k2"]
    issuer.publish(k4=rsa_key | {"kid": "k4", "alg": "PS256"})
    await keys.refresh()
    issuer.keys["k4"] = issuer.keys["k2"]
    one = verifier(issuer, keys, algorithms=frozenset({"RS256", "PS256"}))
    assert one.verify(issuer.token("k4", "PS256", exp=NOW + 60)).user == "ann"
    assert "does not fit" in refusal(one, issuer.token("k4", "RS256", exp=NOW + 60))


async def test_a_token_signed_by_somebody_else_is_refused(issuer, keys):
    issuer.keys["k1"] = ec.generate_private_key(ec.SECP256R1())
    token = issuer.token("k1", "ES256", exp=NOW + 60)
    assert refusal(verifier(issuer, keys), token) == "its signature is wrong"


async def test_a_changed_claim_breaks_the_signature(issuer, keys):
    header, _, signature = issuer.token("k1", "ES256", exp=NOW + 60).split(".")
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "root", "exp": NOW + 60}
    forged = f"{header}.{unsigned({}, claims).split('.')[1]}.{signature}"
    assert refusal(verifier(issuer, keys), forged) == "its signature is wrong"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "\x00.\x00.\x00", "ä.ö.ü", "e30.e30.e30", "W10.e30.", "  "],
)
async def test_garbage_is_refused(issuer, keys, token):
    refusal(verifier(issuer, keys), token)


@pytest.mark.parametrize("payload", [b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 9000])
async def test_claims_that_are_no_object_are_refused(issuer, keys, payload):
    token = jwt.api_jws.PyJWS().encode(payload, issuer.keys["k1"], "ES256", headers={"kid": "k1"})
    refusal(verifier(issuer, keys), token)


async def test_a_huge_token_is_refused_before_anything_is_read(issuer, keys):
    token = issuer.token("k1", "ES256", exp=NOW + 60, more="x" * MAX_TOKEN_BYTES)
    assert refusal(verifier(issuer, keys), token) == "it is too long"


async def test_a_token_without_key_id_is_taken_if_only_one_key_fits(issuer, keys):
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60}
    token = jwt.encode(claims, issuer.keys["k1"], "ES256")
    one = verifier(issuer, keys)
    assert one.verify(token).user == "ann"
    issuer.keys["k5"] = ec.generate_private_key(ec.SECP256R1())
    issuer.publish()
    await keys.refresh()
    assert refusal(one, token) == "it does not say with which key it is signed"


async def test_private_weak_encrypting_and_unknown_keys_in_a_key_set_are_left_out(issuer, keys):
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - on purpose
    weak_key = jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True)
    private = jwt.algorithms.ECAlgorithm.to_jwk(issuer.keys["k1"], as_dict=True)
    good = jwt.algorithms.ECAlgorithm.to_jwk(issuer.keys["k1"].public_key(), as_dict=True)
    issuer.publish(
        weak=weak_key,
        private=private,
        encrypting=good | {"use": "enc"},
        symmetric=good | {"alg": "HS256"},
        new={"kty": "post-quantum"},
        broken={"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    )
    assert await keys.refresh()
    known = [*("weak", "private", "encrypting", "symmetric", "new", "broken"), "k1"]
    usable = []
    for key_id in known:
        with contextlib.suppress(Exception):
            keys.find(key_id, "RS256" if key_id == "weak" else "ES256")
            usable.append(key_id)
    assert usable == ["k1"]


async def test_a_token_whose_end_has_passed_by_less_than_the_leeway_is_still_accepted(issuer, keys):
    said = verifier(issuer, keys).verify(issuer.token("k1", "ES256", exp=NOW - LEEWAY + 1))
    assert said.expires_at_ms == START_MS + 1000
    with pytest.raises(CredentialExpired):
        verifier(issuer, keys).verify(issuer.token("k1", "ES256", exp=NOW - LEEWAY))


async def test_every_key_of_an_id_may_have_signed(issuer, clock):
    """Some issuers number their keys anew, or not at all."""
    others = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    published = [
        jwt.algorithms.ECAlgorithm.to_jwk(one.public_key(), as_dict=True) | {"kid": "same"}
        for one in (others[0], issuer.keys["k1"], others[1])
    ]

    class Published:
        where = "a test"

        async def fetch(self) -> bytes:
            return json.dumps({"keys": published}).encode()

        def changed(self) -> bool:
            return False

    keys = IssuerKeys(Published(), clock)
    assert await keys.refresh()
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW + 60}
    for key in (others[0], issuer.keys["k1"], others[1]):
        token = jwt.encode(claims, key, "ES256", headers={"kid": "same"})
        assert verifier(issuer, keys).verify(token).user == "ann"
    stranger = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(claims, stranger, "ES256", headers={"kid": "same"})
    assert refusal(verifier(issuer, keys), token) == "its signature is wrong"
