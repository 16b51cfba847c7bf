"""Ways into a daemon that authenticates, and into a floor that speaks the same TLS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from fleetplane.v1 import access_service_pb2, identity_service_pb2, namespace_service_pb2
from tests.bench.servers import Server, open_channel
from tests.bench.wire import Metadata
from tests.fakes.secure_daemon import key_and_request

SECURE: Final = {
    "FLEETPLANE_SECURE": "true",
    "FLEETPLANE_LISTEN_MTLS": "127.0.0.1:0",
}
"""Settings that turn everything on."""

UNLIMITED: Final = {
    "FLEETPLANE_CALLS_PER_SECOND": "1000000",
    "FLEETPLANE_BEATS_PER_SECOND": "1000000",
    "FLEETPLANE_STREAMS_PER_CALLER": "20000",
    "FLEETPLANE_ENROLMENTS_PER_SECOND": "1000",
}
"""Limits that are computed and never reached: one caller brings the load of a whole fleet."""

CALL_SECONDS: Final = 30.0

_IDENTITY = "/fleetplane.v1.IdentityService/"
_ACCESS = "/fleetplane.v1.AccessService/"
_NAMESPACES = "/fleetplane.v1.NamespaceService/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A client certificate."""

    spiffe_id: str
    credentials: grpc.ChannelCredentials


class Administrator:
    """Makes tenants and credentials of a daemon that was started with `SECURE`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        secret = Path(server.announced["admin_token"]).read_text(encoding="utf-8").strip()
        self.metadata = bearer(secret)
        self.ca_dir = Path(server.announced["ca_bundle"]).parent

    async def namespace(self, name: str, **quotas: int) -> None:
        """Make a tenant."""
        request = namespace_service_pb2.CreateNamespaceRequest(
            name=name, quotas=namespace_service_pb2.Quotas(**quotas)
        )
        await self._call(
            f"{_NAMESPACES}CreateNamespace", request, namespace_service_pb2.CreateNamespaceResponse
        )

    async def quotas(self, name: str, **quotas: int) -> None:
        """Bound a tenant that exists."""
        request = namespace_service_pb2.UpdateNamespaceRequest(
            namespace=name, quotas=namespace_service_pb2.Quotas(**quotas)
        )
        await self._call(
            f"{_NAMESPACES}UpdateNamespace", request, namespace_service_pb2.UpdateNamespaceResponse
        )

    async def token(self, namespace: str, *roles: str) -> Metadata:
        """Return what calls with a new API token carry."""
        request = identity_service_pb2.CreateApiTokenRequest(
            namespace=namespace, name=f"bench of {namespace}", role=roles[0]
        )
        made = await self._call(
            f"{_IDENTITY}CreateApiToken", request, identity_service_pb2.CreateApiTokenResponse
        )
        for role in roles[1:]:
            await self.bind(namespace, f"token:{made.token.token_id}", role)
        return bearer(made.secret)

    async def identity(self, namespace: str, agent_name: str, *roles: str) -> Identity:
        """Return a new certificate of an agent, bound to roles besides what it is."""
        token = await self._call(
            f"{_IDENTITY}CreateJoinToken",
            identity_service_pb2.CreateJoinTokenRequest(namespace=namespace),
            identity_service_pb2.CreateJoinTokenResponse,
        )
        key, csr = key_and_request()
        enrolled = await self._call(
            f"{_IDENTITY}Enroll",
            identity_service_pb2.EnrollRequest(
                join_token=token.secret, agent_name=agent_name, csr=csr
            ),
            identity_service_pb2.EnrollResponse,
        )
        issued = enrolled.issued
        for role in roles:
            await self.bind(namespace, issued.spiffe_id, role)
        return Identity(
            spiffe_id=issued.spiffe_id,
            credentials=grpc.ssl_channel_credentials(
                issued.trust_bundle.encode(), key, issued.certificate_chain.encode()
            ),
        )

    async def bind(self, namespace: str, subject: str, role: str) -> None:
        """Give somebody a role."""
        request = access_service_pb2.CreateRoleBindingRequest(
            namespace=namespace, subject=subject, role=role
        )
        await self._call(
            f"{_ACCESS}CreateRoleBinding", request, access_service_pb2.CreateRoleBindingResponse
        )

    async def _call(self, method: str, request: Message, response: Any) -> Any:
        call = self._server.channel.unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await call(request, metadata=self.metadata, timeout=CALL_SECONDS)


def bearer(secret: str) -> Metadata:
    """Return what calls with a token carry."""
    return (("authorization", f"Bearer {secret}"),)


@asynccontextmanager
async def way_in(
    server: Server,
    address: str,
    credentials: grpc.ChannelCredentials | None,
    metadata: Metadata = (),
) -> AsyncIterator[Server]:
    """Return the same server as somebody reaches it at another address, or as somebody else."""
    async with open_channel(address, credentials) as channel:
        yield replace(
            server, listen=address, channel=channel, credentials=credentials, metadata=metadata
        )
