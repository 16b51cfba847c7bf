"""Verifies tokens of an OpenID Connect issuer.

Nothing in a token is believed before its signature is verified, except which key is said to have
made it; and only keys of the issuer are tried, each with the algorithms that fit its kind. So a
token cannot choose how it is verified.
"""

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from controlplane.credentials.authority import WallClock
from controlplane.credentials.jwks import IssuerKeys, Key, UnknownKey
from controlplane.domain.access.refusals import CredentialExpired, CredentialInvalid
from controlplane.services.access.ports import VerifiedToken

MAX_TOKEN_BYTES: Final = 16 * 1024
"""Longest token: as much as all metadata of a call may take."""

MAX_NAME_LENGTH: Final = 256
"""Longest name of a user or group, in characters."""

LATEST_SECONDS: Final = 253_402_300_799
"""9999-12-31, the last moment that dates can tell; whatever expires later does so then."""

_WHAT: Final = "the token of the identity provider"

_SIGNATURE_ONLY: Final = {
    "require": ["exp", "iss", "aud"],
    "verify_signature": True,
    "verify_iss": True,
    "verify_aud": True,
    # Times are judged here, by the clock that this object was given.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


class OidcVerifier:
    """Implements `TokenVerifier`. A token takes 50-150 us: remember what it says."""

    def __init__(
        self,
        keys: IssuerKeys,
        *,
        issuer: str,
        audience: str,
        algorithms: frozenset[str],
        user_claim: str = "sub",
        groups_claim: str = "groups",
        leeway_seconds: float = 30.0,
        wall_clock: WallClock = time.time,
    ) -> None:
        """Accept the tokens of one issuer for one audience.

        Args:
            keys: The issuer's keys.
            issuer: `iss`, exactly.
            audience: Must be `aud`, or one of them.
            algorithms: Accepted signature algorithms, such as `ES256`; asymmetric ones.
            user_claim: Claim with the user's name.
            groups_claim: Claim with the names of the groups: a list, or a single text.
            leeway_seconds: Difference of clocks that is tolerated.
            wall_clock: Seconds since 1970.
        """
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = algorithms
        self._user_claim = user_claim
        self._groups_claim = groups_claim
        self._leeway = leeway_seconds
        self._wall_clock = wall_clock

    def verify(self, token: str) -> VerifiedToken:
        """Return what a token says.

        Raises:
            Unauthenticated: CredentialInvalid or CredentialExpired; the text never repeats any part
                of the token.
            NotReady: the issuer's keys are not known yet.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise _invalid("it is too long")
        claims = self._signed_claims(token)
        accepted_until = self._check_times(claims)
        return VerifiedToken(
            user=_name(claims.get(self._user_claim), f"claim {self._user_claim!r}"),
            groups=self._groups(claims),
            expires_at_ms=int(min(accepted_until, LATEST_SECONDS) * 1000),
        )

    def _signed_claims(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that the issuer has signed, for us."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise _invalid("it is malformed") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _invalid("its signature algorithm is not one of those that are accepted")
        try:
            keys = self._keys.find(key_id if isinstance(key_id, str) else None, algorithm)
        except UnknownKey as error:
            raise _invalid(str(error)) from None
        *others, last = keys
        for key in others:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return self._claims(token, key, algorithm)
        try:
            return self._claims(token, last, algorithm)
        except jwt.InvalidSignatureError as error:
            raise _invalid(_REASONS[type(error)]) from None

    def _claims(self, token: str, key: Key, algorithm: str) -> Mapping[str, Any]:
        """Return what `key` has signed; raise InvalidSignatureError if it has not."""
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                options=_SIGNATURE_ONLY,  # type: ignore[arg-type]  # a plain dict of its options
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.InvalidTokenError as error:
            raise _invalid(_REASONS.get(type(error), "it is malformed")) from None
        except (ValueError, TypeError, RecursionError):
            raise _invalid("it is malformed") from None
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Return until when the token is accepted, in seconds since 1970."""
        now = self._wall_clock()
        expires = _seconds(claims, "exp")
        if expires is None:
            raise _invalid("it has no expiry")
        accepted_until = expires + self._leeway
        if accepted_until <= now:
            raise CredentialExpired(_WHAT)
        for claim in ("nbf", "iat"):
            begins = _seconds(claims, claim)
            if begins is not None and begins - self._leeway > now:
                raise _invalid("it is not valid yet")
        return accepted_until

    def _groups(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        what = f"claim {self._groups_claim!r}"
        match claims.get(self._groups_claim):
            case None:
                return ()
            case str(group):
                return (_name(group, what),)
            case list(groups):
                return tuple(dict.fromkeys(_name(group, what) for group in groups))
        raise _invalid(f"its {what} is not a list of names")


def _seconds(claims: Mapping[str, Any], claim: str) -> float | None:
    """Return a moment in seconds since 1970; None if there is none."""
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"its {claim!r} is not a moment")
    try:
        seconds = float(value)
    except OverflowError:  # an integer of hundreds of digits
        seconds = math.inf
    if not math.isfinite(seconds):
        raise _invalid(f"its {claim!r} is not a moment")
    return seconds


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_LENGTH:
        raise _invalid(f"its {what} is not a name of 1-{MAX_NAME_LENGTH} characters")
    if not value.isprintable():
        raise _invalid(f"its {what} holds characters that do not print")
    return value


def _invalid(why: str) -> CredentialInvalid:
    return CredentialInvalid(_WHAT, why)


_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.MissingRequiredClaimError: "it lacks one of exp, iss and aud",
    jwt.InvalidAlgorithmError: "its signature algorithm does not fit its key",
    jwt.InvalidKeyError: "its signature algorithm does not fit its key",
}
