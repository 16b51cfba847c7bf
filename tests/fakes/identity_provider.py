"""An identity provider: keys in a file, and tokens of every kind, good and forged."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER: Final = "https://login.example"
AUDIENCE: Final = "fleetplane"
KEY_ID: Final = "key-1"


class IdentityProvider:
    """Signs tokens with a key of its own; `settings` make a daemon accept them."""

    def __init__(self, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.jwks = directory / "jwks.json"
        public: Any = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        document = {"keys": [public | {"kid": KEY_ID, "alg": "ES256", "use": "sig"}]}
        self.jwks.write_text(json.dumps(document), encoding="utf-8")

    @property
    def settings(self) -> dict[str, str]:
        return {
            "oidc_issuer": ISSUER,
            "oidc_audience": AUDIENCE,
            "oidc_jwks": str(self.jwks),
            "oidc_user_claim": "email",
        }

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims with some replaced; None leaves one out."""
        now = int(time.time())
        good: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "u-1",
            "email": "ann@example.com",
            "groups": ["platform"],
            "iat": now,
            "nbf": now - 60,
            "exp": now + 600,
        }
        return {key: value for key, value in (good | changes).items() if value is not None}

    def token(self, *, kid: str = KEY_ID, key: Any = None, **changes: Any) -> str:
        """Return a signed token."""
        signed: str = jwt.encode(
            self.claims(**changes), key or self.key, algorithm="ES256", headers={"kid": kid}
        )
        return signed

    def unsigned(self) -> str:
        """Return a token that says that it needs no signature."""
        none: str = jwt.encode(self.claims(), "", algorithm="none", headers={"kid": KEY_ID})
        return none

    def signed_with_the_public_key(self) -> str:
        """Return a token whose HMAC key is what everybody knows."""

        header = {"alg": "HS256", "typ": "JWT", "kid": KEY_ID}
        body = ".".join(_part(part) for part in (header, self.claims()))
        mac = hmac.new(self.public_pem, body.encode(), hashlib.sha256).digest()
        return f"{body}.{_base64(mac)}"

    def tampered(self) -> str:
        """Return a token whose claims were changed after it was signed."""
        head, _, signature = self.token().split(".")
        return ".".join((head, _part(self.claims(email="root@example.com")), signature))


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
