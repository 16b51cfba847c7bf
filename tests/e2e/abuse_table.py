"""What an attacker may try, and what he is answered. The doing is in `test_abuse.py`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fleetplane.v1 import agent_pb2, identity_service_pb2, registry_service_pb2
from tests.fakes.secure_daemon import key_and_request

if TYPE_CHECKING:
    from tests.e2e.test_abuse import Target

HERE: Final = "acme"
ELSEWHERE: Final = "umbra"
MEBIBYTE: Final = 1024 * 1024

INVALID: Final = "UNAUTHENTICATED/CREDENTIAL_INVALID"
EXPIRED: Final = "UNAUTHENTICATED/CREDENTIAL_EXPIRED"
REVOKED: Final = "UNAUTHENTICATED/CREDENTIAL_REVOKED"
MISSING: Final = "UNAUTHENTICATED/CREDENTIAL_MISSING"
WRONG: Final = "INVALID_ARGUMENT/INVALID_FIELD"
TOO_FAST: Final = "RESOURCE_EXHAUSTED/RATE_LIMITED"
NOWHERE: Final = "NOT_FOUND/NAMESPACE_NOT_FOUND"


@dataclass(frozen=True)
class Abuse:
    """One attempt: `act` returns what it was answered, as `CODE/REASON` or `CODE`."""

    what: str
    answer: str
    act: "Callable[[Target], str]"

    def __str__(self) -> str:
        return self.what


Act = Callable[["Target"], str]


def _spoofing(header: str) -> Act:
    identity = f"spiffe://fleetplane.local/ns/{HERE}/agent/writer"
    return lambda t: t.list_agents((header, identity))


def _enrolling_as(name: str, csr: str) -> Act:
    return lambda t: t.enrol(t.join_token(), name, csr)


def _listing_in(namespace: str) -> Act:
    request = registry_service_pb2.ListAgentsRequest(namespace=namespace)
    return lambda t: t.as_admin("RegistryService/ListAgents", request)


def _tokens() -> Iterator[Abuse]:
    """Bearer tokens; a good one would list agents."""

    def shows(what: str, answer: str, make: "Callable[[Target], str]") -> Abuse:
        return Abuse(what, answer, lambda t: t.list_agents(("authorization", make(t))))

    def says(what: str, answer: str, **changes: Any) -> Abuse:
        return shows(what, answer, lambda t: f"Bearer {t.provider.token(**changes)}")

    past = int((datetime.now(UTC) - timedelta(hours=2)).timestamp())
    future = int((datetime.now(UTC) + timedelta(hours=2)).timestamp())
    yield says("an expired token", EXPIRED, exp=past, nbf=past - 60, iat=past - 60)
    yield says("a token of tomorrow", INVALID, nbf=future, exp=future + 600)
    yield says("a token of another issuer", INVALID, iss="https://evil.example")
    yield says("a token for somebody else", INVALID, aud="another-service")
    yield says("a token for a crowd without us", INVALID, aud=["a", "b"])
    yield says("a token without an audience", INVALID, aud=None)
    yield says("a token without an end", INVALID, exp=None)
    yield says("a token without an issuer", INVALID, iss=None)
    yield says("a token of nobody", INVALID, email=None)
    yield says("a token of an unknown key", INVALID, kid="key-2")
    yield says(
        "a token signed by somebody else", INVALID, key=ec.generate_private_key(ec.SECP256R1())
    )
    yield shows("alg: none", INVALID, lambda t: f"Bearer {t.provider.unsigned()}")
    yield shows(
        "the signature cut off", INVALID, lambda t: "Bearer " + t.jwt.rpartition(".")[0] + "."
    )
    yield shows("changed claims", INVALID, lambda t: f"Bearer {t.provider.tampered()}")
    yield shows(
        "the public key as a secret",
        INVALID,
        lambda t: f"Bearer {t.provider.signed_with_the_public_key()}",
    )
    yield shows("three dots", INVALID, lambda _: "Bearer ...")
    yield shows("nothing", INVALID, lambda _: "Bearer ")
    yield shows("a password", INVALID, lambda _: "Basic cm9vdDpyb290")
    yield shows("a truncated API token", INVALID, lambda t: f"Bearer {t.api_token[:-1]}")
    yield shows("an API token in capitals", INVALID, lambda t: f"Bearer {t.api_token.upper()}")
    yield shows(
        "the id of one token with the secret of another",
        INVALID,
        lambda t: f"Bearer {t.api_token.split('.')[0]}.{t.other_api_token.split('.')[1]}",
    )
    yield shows("a join token", INVALID, lambda t: f"Bearer {t.join_token()}")
    yield shows("a revoked token", REVOKED, lambda t: f"Bearer {t.revoked_api_token}")
    yield Abuse(
        "two credentials at once",
        INVALID,
        lambda t: t.list_agents(
            ("authorization", f"Bearer {t.api_token}"), ("authorization", f"Bearer {t.jwt}")
        ),
    )
    for header in ("x-forwarded-client-cert", "x-ssl-client-cert", "x-forwarded-user", "forwarded"):
        yield Abuse(
            f"an identity in the header {header}",
            MISSING,
            _spoofing(header),
        )


def _enrolments() -> Iterator[Abuse]:
    """Join tokens and signing requests."""
    _, good = key_and_request()

    def enrols(what: str, answer: str, csr: str) -> Abuse:
        return Abuse(what, answer, lambda t: t.enrol(t.join_token(), "writer", csr))

    yield enrols("no signing request", WRONG, "")
    yield enrols("a signing request of garbage", WRONG, "-----BEGIN CERTIFICATE REQUEST-----\nx\n")
    yield enrols("a signing request of a megabyte", WRONG, good + "A" * MEBIBYTE)
    yield enrols("a changed signing request", WRONG, _changed(good))
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1024)  # noqa: S505 - weak on purpose
    yield enrols("a weak key", WRONG, key_and_request(key=weak)[1])
    odd = ec.generate_private_key(ec.SECP224R1())
    yield enrols("an odd curve", WRONG, key_and_request(key=odd)[1])
    yield enrols("a private key instead", WRONG, _private_key())
    for what, name in (
        ("a path as a name", "../writer"),
        ("a name with a zero byte", "wri\0ter"),
        ("a name that reads backwards", "\u202eretirw"),
        ("no name", ""),
        ("a long name", "w" * 10_000),
    ):
        yield Abuse(what, WRONG, _enrolling_as(name, good))
    yield Abuse(
        "a name that the token is not for",
        "PERMISSION_DENIED/PERMISSION_DENIED",
        lambda t: t.enrol(t.join_token(agent_name_pattern="reader"), "writer", good),
    )
    yield Abuse("a join token used twice", REVOKED, lambda t: t.enrol(t.used_join_token, "w", good))
    yield Abuse(
        "an API token to enrol with", INVALID, lambda t: t.enrol(t.api_token, "writer", good)
    )
    yield Abuse(
        "a banned agent",
        "PERMISSION_DENIED/AGENT_BANNED",
        lambda t: t.enrol(t.join_token(), "banned", good),
    )


def _changed(csr: str) -> str:
    lines = csr.splitlines()
    middle = len(lines) // 2
    lines[middle] = lines[middle][::-1]
    return "\n".join(lines)


def _private_key() -> str:
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _messages() -> Iterator[Abuse]:
    """What a caller with good credentials may send."""
    pb = registry_service_pb2

    def registers(what: str, **fields: Any) -> Abuse:
        spec = agent_pb2.AgentSpec(**({"name": "writer", "version": "1.0.0"} | fields))
        return Abuse(
            what,
            WRONG,
            lambda t: t.as_admin(
                "RegistryService/Register", pb.RegisterRequest(namespace=HERE, spec=spec)
            ),
        )

    for what, namespace in (
        ("the system's own namespace", "@system"),
        ("a path as a namespace", "acme/../umbra"),
        ("capitals", "ACME"),
        ("a zero byte in a namespace", "acme\0"),
        ("a namespace that reads backwards", "\u202eemca"),
        ("every namespace", "*"),
    ):
        yield Abuse(
            what,
            WRONG,
            _listing_in(namespace),
        )
    yield registers("a zero byte in a name", name="wri\0ter")
    yield registers("an agent that reads backwards", name="\u202eretirw")
    yield registers("a path as an agent's name", name="../../etc/passwd")
    yield registers("ten thousand tags", tags={f"k{i}": "v" for i in range(10_000)})
    yield Abuse(
        "five megabytes",
        "RESOURCE_EXHAUSTED",
        lambda t: t.as_admin(
            "RegistryService/Register", b"\x0a\xff\xff\xbf\x02" + b"x" * 5 * MEBIBYTE
        ),
    )
    yield Abuse(
        "no message at all",
        WRONG,
        lambda t: t.as_admin("RegistryService/Register", b"\xff\xff\xff"),
    )
    yield Abuse(
        "64 KiB of metadata",
        "RESOURCE_EXHAUSTED",
        lambda t: t.list_agents(
            ("authorization", f"Bearer {t.api_token}"), ("x-pad", "p" * 65_536)
        ),
    )
    yield Abuse(
        "a method that nobody has",
        "UNIMPLEMENTED",
        lambda t: t.as_admin("RegistryService/DropEverything", b""),
    )
    yield Abuse(
        "a cursor of another tenant",
        "INVALID_ARGUMENT/INVALID_CURSOR",
        lambda t: t.as_admin(
            "RegistryService/ListAgents",
            pb.ListAgentsRequest(namespace=ELSEWHERE, page_token=t.cursor, page_size=1),
        ),
    )
    yield Abuse(
        "another tenant's namespace",
        NOWHERE,
        lambda t: t.call(
            "RegistryService/ListAgents", pb.ListAgentsRequest(namespace=ELSEWHERE), t.api_token
        ),
    )
    yield Abuse(
        "a role for oneself",
        "PERMISSION_DENIED/PERMISSION_DENIED",
        lambda t: t.call(
            "IdentityService/CreateApiToken",
            identity_service_pb2.CreateApiTokenRequest(namespace=HERE, name="x", role="admin"),
            t.api_token,
        ),
    )


ABUSES: Final = (*_tokens(), *_enrolments(), *_messages())


FLOODS: Final = (
    Abuse(
        "guesses at join tokens, more than a network has",
        TOO_FAST,
        lambda t: t.enrol_at_once(300).most_common(1)[0][0],
    ),
    Abuse(
        "guesses at API tokens, more than a network has",
        TOO_FAST,
        lambda t: t.list_agents_at_once(["at-guess.guess"] * 500).most_common(1)[0][0],
    ),
)
"""What uses up a budget of the network that attacker and victim share here: to be tried last. Most
of the answers are this one."""
