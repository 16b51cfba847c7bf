"""An identity provider on loopback: publishes keys, signs tokens, can be away or misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "fleet"
KEYS_PATH = "/keys"
DESCRIPTION_PATH = "/.well-known/openid-configuration"


class Issuer:
    """Answers GET requests with what `pages` holds: path -> (status, headers, body)."""

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.keys: dict[str, Any] = {}

    @property
    def description_of(self) -> str:
        return self.url + DESCRIPTION_PATH

    def publish(self, **more: Any) -> None:
        """Publish the public halves of `keys`, and `more` keys as they are."""
        published = [_public_jwk(key_id, key) for key_id, key in self.keys.items()]
        published += [{"kid": key_id, **described} for key_id, described in more.items()]
        self.answer(KEYS_PATH, {"keys": published})

    def answer(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.pages[path] = (status, headers, content)

    def token(self, key_id: str, algorithm: str, **claims: Any) -> str:
        return jwt.encode(
            {"iss": self.url, "aud": AUDIENCE, "sub": "ann"} | claims,
            self.keys[key_id],
            algorithm,
            headers={"kid": key_id},
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self.asked.append(path)
            status, headers, body = self.pages.get(path, (404, {}, b""))
            lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone away
        finally:
            writer.close()


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    """Serve an issuer with an ECDSA key `k1`, an RSA key `k2` and an Ed25519 key `k3`."""
    issuer = Issuer()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    issuer.keys = {
        "k1": ec.generate_private_key(ec.SECP256R1()),
        "k2": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "k3": ed25519.Ed25519PrivateKey.generate(),
    }
    issuer.publish()
    issuer.answer(DESCRIPTION_PATH, {"issuer": issuer.url, "jwks_uri": issuer.url + KEYS_PATH})
    async with server:
        yield issuer


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def _public_jwk(key_id: str, key: Any) -> dict[str, Any]:
    return {"kid": key_id, **_jwk_maker(key).to_jwk(key.public_key(), as_dict=True)}


def _jwk_maker(key: Any) -> Any:
    match key:
        case ec.EllipticCurvePrivateKey():
            return jwt.algorithms.ECAlgorithm
        case rsa.RSAPrivateKey():
            return jwt.algorithms.RSAAlgorithm
    return jwt.algorithms.OKPAlgorithm
