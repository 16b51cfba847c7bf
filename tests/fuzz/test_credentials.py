"""Credentials made of garbage, and good ones that were tampered with."""

import base64
import contextlib
import json
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from controlplane.credentials.certificates import X509Reader
from controlplane.credentials.issuing import key_of_request
from controlplane.credentials.jwks import IssuerKeys
from controlplane.credentials.oidc import OidcVerifier
from controlplane.domain.access import name_patterns, secrets, spiffe, subjects
from controlplane.domain.access.refusals import Unauthenticated
from controlplane.domain.errors import DomainError, InvalidArgument
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.fuzzing import FUZZED, json_values, texts
from tests.fakes.identity_plane import IdentityPlane
from tests.fakes.small_authority import SmallAuthority

_ISSUER: Final = "https://login.example"
_KEY: Final = ec.generate_private_key(ec.SECP256R1())

_header: Final = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["ES256", "RS256", "none", "HS256", "EdDSA"]) | json_values,
        "kid": st.just("k") | json_values,
        "typ": json_values,
        "crit": json_values,
        "b64": json_values,
        "jwk": json_values,
        "x5u": json_values,
        "zip": json_values,
    },
)
_moments: Final = st.sampled_from([START_MS // 1000 + 60, 0, -1, 1e300, 10**400, True, "1"])
_claims: Final = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.just(_ISSUER) | json_values,
        "aud": st.just("fleet") | st.just(["fleet"]) | json_values,
        "exp": _moments | json_values,
        "nbf": _moments | json_values,
        "iat": _moments | json_values,
        "sub": texts | json_values,
        "groups": st.lists(texts, max_size=3) | json_values,
    },
)


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _json_part(value: Any) -> str:
    return _part(json.dumps(value).encode())


_jwts: Final = st.one_of(
    st.builds(
        lambda h, c, s: f"{_json_part(h)}.{_json_part(c)}.{_part(s)}",
        _header | json_values, _claims | json_values, st.binary(max_size=70),
    ),
    st.builds(lambda parts: ".".join(map(_part, parts)), st.lists(st.binary(max_size=60))),
    st.integers(1, 7000).map(lambda n: f"{_part(b'[' * n)}.{_part(b'{}')}.x"),
)  # fmt: skip
_tokens: Final = st.one_of(
    texts,
    _jwts,
    st.text("at-j0.AZ_", max_size=70),
    st.builds(lambda i, s: f"at-{i}.{s}", texts, texts),
    st.just("at-" + "a" * 5000),
)


def _published() -> bytes:
    numbers = _KEY.public_key().public_numbers()
    x, y = (_part(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
    key = {"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": x, "y": y}
    return json.dumps({"keys": [key]}).encode()


class _Publisher:
    """A source of keys."""

    where = "here"

    def __init__(self) -> None:
        self.document = _published()

    async def fetch(self) -> bytes:
        return self.document

    def changed(self) -> bool:
        return True


async def _verifier() -> OidcVerifier:
    keys = IssuerKeys(_Publisher(), FakeClock())
    assert await keys.refresh()
    return OidcVerifier(
        keys,
        issuer=_ISSUER,
        audience="fleet",
        leeway_seconds=30,
        algorithms=frozenset({"ES256", "RS256", "EdDSA"}),
        wall_clock=lambda: START_MS / 1000,
    )


@pytest.fixture(scope="module")
async def plane() -> IdentityPlane:
    """An authenticator that knows one API token, and one key of an identity provider."""
    plane = IdentityPlane()
    await plane.add_namespace()
    plane.authenticator._verifier = await _verifier()
    return plane


@pytest.fixture(scope="module")
async def secret(plane: IdentityPlane) -> str:
    return (await plane.api_token()).secret


@FUZZED
@given(token=_tokens)
def test_no_text_is_a_bearer_token_by_accident(plane: IdentityPlane, token: str) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        plane.authenticator.by_bearer(token)
    assert len(token) < 8 or token not in str(refusal.value)


@FUZZED
@given(place=st.integers(0, 60), put=st.text(min_size=1, max_size=3))
def test_no_other_text_than_the_secret_itself_is_the_token(
    plane: IdentityPlane, secret: str, place: int, put: str
) -> None:
    changed = secret[:place] + put + secret[place + len(put) :]
    if changed == secret:
        return
    with pytest.raises(Unauthenticated):
        plane.authenticator.by_bearer(changed)


@FUZZED
@given(header=_header, claims=_claims)
def test_claims_that_the_issuer_signed_make_a_caller_or_are_refused(
    plane: IdentityPlane, header: Any, claims: Any
) -> None:
    body = f"{_json_part(header | {'alg': 'ES256', 'kid': 'k'})}.{_json_part(claims)}"
    signature = _raw_signature(body.encode())
    with contextlib.suppress(Unauthenticated):
        caller = plane.authenticator.by_bearer(f"{body}.{_part(signature)}")
        assert caller.name == f"user:{claims['sub']}"
        assert caller.expires_at_ms > START_MS
        assert not caller.is_admin or claims["sub"] == "root"


def _raw_signature(body: bytes) -> bytes:
    """Return an ES256 signature: both numbers in a row instead of in ASN.1."""
    r, s = decode_dss_signature(_KEY.sign(body, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@FUZZED
@given(document=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
async def test_published_keys_that_are_none_are_refused(document: bytes) -> None:
    source = _Publisher()
    keys = IssuerKeys(source, FakeClock())
    assert await keys.refresh()
    source.document = document
    await keys.refresh()  # says whether; what is good stays
    keys.find("k", "ES256")


@FUZZED
@given(text=texts | st.text(max_size=200))
def test_secrets_and_identities_of_tokens_are_read_strictly(text: str) -> None:
    for kind in secrets.SecretKind:
        token_id = secrets.token_id_in(kind, text)
        assert not token_id or text.startswith(f"{token_id}.")
    with contextlib.suppress(InvalidArgument):
        secrets.check_token_id(text)
    assert not secrets.same_digest(None, secrets.digest_of(text))


_nasty: Final = st.one_of(
    texts,
    st.text("*a/.-", max_size=500),
    st.integers(1, 200).map(lambda n: "spiffe://a" + "/*a" * n),
    st.integers(1, 500).map(lambda n: "spiffe://a/" + "*" * n),
    st.integers(1, 500).map(lambda n: "spiffe://a/" + "*a" * n + "/**"),
    st.builds(lambda rest: f"spiffe://a/{rest}", st.text("*a/.-", max_size=480)),
)
_subjects: Final = st.one_of(
    texts,
    st.builds(lambda rest: f"spiffe://a/{rest}", st.text("a/.-", max_size=480)),
    st.integers(1, 2000).map(lambda n: "spiffe://a/" + "a" * n),
    st.integers(1, 900).map(lambda n: "spiffe://a" + "/a" * n + "!"),
)


@FUZZED
@given(pattern=_nasty, subject=_subjects)
def test_no_pattern_of_subjects_makes_a_match_slow(pattern: str, subject: str) -> None:
    with contextlib.suppress(InvalidArgument):
        subjects.check_subject(pattern)
        subjects.matches(pattern, subject)


@FUZZED
@given(pattern=_nasty, name=texts | st.integers(1, 300).map("a".__mul__))
def test_no_pattern_of_names_makes_a_match_slow(pattern: str, name: str) -> None:
    with contextlib.suppress(InvalidArgument):
        checked = name_patterns.check_name_pattern(pattern)
        name_patterns.matches_name(checked, name)
    with contextlib.suppress(InvalidArgument):
        name_patterns.check_agent_name(name)


@FUZZED
@given(spiffe_id=_subjects | _nasty, rule=texts | _nasty)
def test_any_identity_is_read_in_one_way_or_not_at_all(spiffe_id: str, rule: str) -> None:
    domain = spiffe.trust_domain_of(spiffe_id)
    agent = spiffe.own_agent(spiffe_id, "a")
    if agent is not None:
        assert domain == "a"
        assert spiffe.agent_spiffe_id("a", agent) == spiffe_id
    with contextlib.suppress(ValueError):
        spiffe.AgentRule(rule).agent_of(spiffe_id)
    spiffe.AgentRule("spiffe://a/ns/{namespace}/x-{agent_name}-y").agent_of(spiffe_id)


def _request() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_KEY, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


_REQUEST: Final = _request()
_AUTHORITY: Final = SmallAuthority()
_CERTIFICATE: Final = x509.load_pem_x509_certificate(_AUTHORITY.issue()[1])


def _pem(kind: str, der: bytes) -> str:
    return f"-----BEGIN {kind}-----\n{base64.b64encode(der).decode()}\n-----END {kind}-----\n"


def _mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """Return the bytes with a few of them replaced, removed or repeated."""
    edit = st.tuples(st.integers(0, len(original)), st.integers(0, 4), st.binary(max_size=4))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = original
        for place, removed, put in edits:
            changed = changed[:place] + put + changed[place + removed :]
        return changed

    return st.lists(edit, min_size=1, max_size=3).map(apply)


@FUZZED
@given(der=_mutated(_REQUEST) | st.binary(max_size=300))
def test_a_tampered_request_for_a_certificate_is_refused(der: bytes) -> None:
    if der == _REQUEST:
        return
    with pytest.raises(InvalidArgument):
        key_of_request(_pem("CERTIFICATE REQUEST", der))


@FUZZED
@given(text=texts | st.text(max_size=200) | _mutated(_pem("CERTIFICATE REQUEST", _REQUEST).encode())
       .map(lambda b: b.decode("latin-1")))  # fmt: skip
def test_a_text_that_is_no_request_for_a_certificate_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        # Line ends and the text around the block may change without harm.
        key = key_of_request(text)
        assert key.public_numbers() == _KEY.public_key().public_numbers()


@FUZZED
@given(pem=st.binary(max_size=200) | _mutated(
    _CERTIFICATE.public_bytes(serialization.Encoding.PEM)
) | _mutated(_CERTIFICATE.public_bytes(serialization.Encoding.DER))
    .map(lambda der: _pem("CERTIFICATE", der).encode()))  # fmt: skip
def test_a_certificate_that_is_none_says_nobody(pem: bytes) -> None:
    reader = X509Reader(lambda: [x509.load_pem_x509_certificate(_AUTHORITY.pem)])
    with contextlib.suppress(DomainError):
        reader.read(pem)
