"""The keys of an OpenID Connect issuer, kept up to date."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from controlplane.domain.errors import NotReady
from controlplane.security_settings import ASYMMETRIC_ALGORITHMS
from controlplane.services.ports import Clock

REFRESH_SECONDS: Final = 300.0
"""How often keys are asked for; an issuer announces a new key longer than that before its use."""

RETRY_SECONDS: Final = 15.0
"""Pause after an attempt that has failed."""

ASK_AGAIN_SECONDS: Final = 10.0
"""Tokens with a key that nobody knows make the issuer asked at most so often."""

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether somebody asked, or a file has changed."""

MAX_KEYS: Final = 100
"""Keys of an issuer that are kept; real ones have two or three."""

MIN_RSA_BITS: Final = 2048
"""Shorter keys are not used: their signatures can be forged."""

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

_log = logging.getLogger("fleetplane.credentials")

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "RS": (rsa.RSAPublicKey,),
    "PS": (rsa.RSAPublicKey,),
    "Ed": (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey),
}
"""By the first two letters of an algorithm: the kinds of key that it works with. Those of elliptic
curves depend on the curve."""

_CURVES: Final[Mapping[str, str]] = {
    "ES256": "secp256r1",
    "ES384": "secp384r1",
    "ES512": "secp521r1",
}


class UnknownKey(Exception):
    """No key of the issuer fits; says why in a few words."""


class KeysUnavailable(Exception):
    """The issuer's keys could not be had; says why."""


class KeySource(Protocol):
    """Where an issuer publishes its keys."""

    @property
    def where(self) -> str:
        """URL or path, for the log."""

    async def fetch(self) -> bytes:
        """Return the key set, in JSON.

        Raises:
            KeysUnavailable: it could not be had.
        """

    def changed(self) -> bool:
        """Return whether it is known that there is another one since this was last asked."""


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    algorithm: str | None
    """The only one it may be used with, if its publisher says so."""

    def fits(self, algorithm: str) -> bool:
        if self.algorithm is not None and self.algorithm != algorithm:
            return False
        if isinstance(self.key, ec.EllipticCurvePublicKey):
            return _CURVES.get(algorithm) == self.key.curve.name
        return isinstance(self.key, _KINDS.get(algorithm[:2], ()))


class IssuerKeys:
    """The keys as of the last time that the issuer answered; they outlive its absence."""

    def __init__(self, source: KeySource, clock: Clock) -> None:
        """Keep the keys of `source`; `run` fetches them."""
        self._source = source
        self._clock = clock
        self._by_id: Mapping[str | None, tuple[_Known, ...]] = {}
        self._wanted = False
        self._asked_at = float("-inf")
        self._away = False

    def find(self, key_id: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys that a token names, or the only one that fits if it names none.

        An issuer should not, but may, publish several under one id: each of them may have signed.

        Raises:
            UnknownKey: there is none.
            NotReady: that cannot be told yet: the issuer has never answered, or is about to be
                asked whether it has new ones. Its tokens are then neither good nor bad, and who
                shows one should come again instead of giving up.
        """
        if not self._by_id:
            raise NotReady("the keys of the token issuer are not known yet")
        if key_id is None:
            fitting = [one for some in self._by_id.values() for one in some if one.fits(algorithm)]
            if len(fitting) != 1:
                raise UnknownKey("it does not say with which key it is signed")
            return (fitting[0].key,)
        known = self._by_id.get(key_id)
        if known is None:
            self._wanted = True
            if self._clock.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS:
                raise NotReady("the token issuer is asked whether it has new keys")
            raise UnknownKey("it is signed with a key that the issuer does not publish")
        keys = [one.key for one in known if one.fits(algorithm)]
        if not keys:
            raise UnknownKey("its signature algorithm does not fit its key")
        return keys

    async def run(self) -> None:
        """Keep the keys up to date until cancelled."""
        while True:
            pause = REFRESH_SECONDS if await self.refresh() else RETRY_SECONDS
            due = self._asked_at + pause
            while self._clock.monotonic() < due and not self._is_needed():
                await self._clock.sleep(LOOK_SECONDS)

    async def refresh(self) -> bool:
        """Ask the issuer for its keys; return whether it has answered."""
        self._asked_at = self._clock.monotonic()
        self._wanted = False
        try:
            keys = _read(await self._source.fetch())
        except KeysUnavailable as error:
            if not self._away:
                _log.error(
                    "the keys of the token issuer cannot be had; going on with those known",
                    extra={"source": self._source.where, "cause": str(error)},
                )
            self._away = True
            return False
        if self._away or keys.keys() != self._by_id.keys():
            _log.info(
                "the token issuer has published its keys",
                extra={"source": self._source.where, "keys": len(keys)},
            )
        self._by_id, self._away = keys, False
        return True

    def _is_needed(self) -> bool:
        """Return whether there is a reason to ask before it is time."""
        if self._source.changed():
            return True
        return self._wanted and self._clock.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS


def _read(text: bytes) -> Mapping[str | None, tuple[_Known, ...]]:
    """Return the usable keys of a key set, by their ids.

    Raises:
        KeysUnavailable: it is not a key set, or holds no key that can verify signatures.
    """
    try:
        described = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeysUnavailable("the answer is not a key set in JSON") from None
    if not isinstance(described, list):
        raise KeysUnavailable("the answer is not a key set in JSON")
    keys: dict[str | None, tuple[_Known, ...]] = {}
    for one in described[:MAX_KEYS]:
        key = _usable(one)
        if key is not None:
            key_id = one.get("kid")
            keys[key_id] = (*keys.get(key_id, ()), key)
    if not keys:
        raise KeysUnavailable("the key set holds no key that verifies signatures")
    return keys


def _usable(described: Any) -> _Known | None:
    """Return a key that may verify signatures; None for all others, which are no error."""
    if not isinstance(described, dict) or not _is_for_signatures(described):
        return None
    try:
        key = jwt.PyJWK(described).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(key, Key) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS
    ):
        return None
    return _Known(key, described.get("alg"))


def _is_for_signatures(described: Mapping[str, Any]) -> bool:
    """Return whether a key is a public one that is meant to verify signatures.

    A private key has no business in a key set, and a symmetric one could sign: neither is used.
    """
    return (
        described.get("use", "sig") == "sig"
        and described.get("alg", "ES256") in ASYMMETRIC_ALGORITHMS
        and isinstance(described.get("kid", ""), str)
        and described.get("kty") != "oct"
        and "d" not in described
    )
