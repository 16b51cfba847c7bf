"""Who callers are; the contract is protos/fleetplane/v1/identity_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import current_caller
from controlplane.api.convert.identity import (
    api_token_life_ms,
    api_token_to_proto,
    ban_to_proto,
    enrolled_to_proto,
    identity_to_proto,
    join_token_life_ms,
    join_token_to_proto,
    listed_to_proto,
    place_of,
    uses_from_proto,
)
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.domain.access.secrets import check_token_id
from controlplane.domain.identity import namespace_of
from controlplane.services.access.api_tokens import ApiTokens
from controlplane.services.access.bans import Bans
from controlplane.services.access.enrolment import Enrolment
from controlplane.services.access.join_tokens import JoinTokens
from controlplane.services.access.who_am_i import WhoAmI
from fleetplane.v1 import identity_service_pb2 as pb
from fleetplane.v1 import identity_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class IdentityService(pb_grpc.IdentityServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        enrolment: Enrolment,
        join_tokens: JoinTokens,
        api_tokens: ApiTokens,
        bans: Bans,
        who_am_i: WhoAmI,
        page_tokens: PageTokens,
    ) -> None:
        self._enrolment = enrolment
        self._join_tokens = join_tokens
        self._api_tokens = api_tokens
        self._bans = bans
        self._who_am_i = who_am_i
        self._page_tokens = page_tokens

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        enrolled = await self._enrolment.enroll(
            required(request.join_token, "join_token"),
            required(request.agent_name, "agent_name"),
            required(request.csr, "csr"),
            caller=current_caller(),
        )
        return pb.EnrollResponse(
            issued=enrolled_to_proto(enrolled), namespace=enrolled.agent.namespace
        )

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        enrolled = await self._enrolment.renew(
            required(request.csr, "csr"), caller=current_caller()
        )
        return pb.RenewCertificateResponse(issued=enrolled_to_proto(enrolled))

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: Context
    ) -> pb.CreateJoinTokenResponse:
        minted = await self._join_tokens.create(
            namespace_of(request.namespace),
            agent_name_pattern=request.agent_name_pattern,
            max_uses=uses_from_proto(request),
            ttl_ms=join_token_life_ms(request),
            description=request.description,
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateJoinTokenResponse(
            secret=minted.secret, token=join_token_to_proto(minted.token, uses=0)
        )

    async def ListJoinTokens(
        self, request: pb.ListJoinTokensRequest, context: Context
    ) -> pb.ListJoinTokensResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._join_tokens.page(
            namespace,
            after=self._page_tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
        )
        return pb.ListJoinTokensResponse(
            tokens=[join_token_to_proto(listed.token, listed.uses) for listed in page.tokens],
            next_page_token=self._next(namespace, digest, page.next_cursor),
        )

    async def RevokeJoinToken(
        self, request: pb.RevokeJoinTokenRequest, context: Context
    ) -> pb.RevokeJoinTokenResponse:
        listed = await self._join_tokens.revoke(
            namespace_of(request.namespace),
            check_token_id(required(request.token_id, "token_id")),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.RevokeJoinTokenResponse(token=join_token_to_proto(listed.token, listed.uses))

    async def CreateApiToken(
        self, request: pb.CreateApiTokenRequest, context: Context
    ) -> pb.CreateApiTokenResponse:
        minted = await self._api_tokens.create(
            place_of(request.namespace),
            name=required(request.name, "name"),
            role=required(request.role, "role"),
            ttl_ms=api_token_life_ms(request),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateApiTokenResponse(
            secret=minted.secret, token=api_token_to_proto(minted.token)
        )

    async def ListApiTokens(
        self, request: pb.ListApiTokensRequest, context: Context
    ) -> pb.ListApiTokensResponse:
        namespace, digest = place_of(request.namespace), digest_of_arguments(request)
        page = await self._api_tokens.page(
            namespace,
            after=self._page_tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
        )
        return pb.ListApiTokensResponse(
            tokens=[listed_to_proto(listed) for listed in page.tokens],
            next_page_token=self._next(namespace, digest, page.next_cursor),
        )

    async def RevokeApiToken(
        self, request: pb.RevokeApiTokenRequest, context: Context
    ) -> pb.RevokeApiTokenResponse:
        listed = await self._api_tokens.revoke(
            place_of(request.namespace),
            check_token_id(required(request.token_id, "token_id")),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.RevokeApiTokenResponse(token=listed_to_proto(listed))

    async def BanAgent(self, request: pb.BanAgentRequest, context: Context) -> pb.BanAgentResponse:
        ban = await self._bans.ban(
            namespace_of(request.namespace),
            required(request.agent_name, "agent_name"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.BanAgentResponse(ban=ban_to_proto(ban))

    async def UnbanAgent(
        self, request: pb.UnbanAgentRequest, context: Context
    ) -> pb.UnbanAgentResponse:
        removed = await self._bans.unban(
            namespace_of(request.namespace),
            required(request.agent_name, "agent_name"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.UnbanAgentResponse(removed=removed)

    async def ListBans(self, request: pb.ListBansRequest, context: Context) -> pb.ListBansResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._bans.page(
            namespace,
            after=self._page_tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
        )
        return pb.ListBansResponse(
            bans=[ban_to_proto(ban) for ban in page.bans],
            next_page_token=self._next(namespace, digest, page.next_cursor),
        )

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        return identity_to_proto(self._who_am_i.of(current_caller()))

    def _next(self, namespace: str, digest: bytes, cursor: str) -> str:
        return self._page_tokens.encode(namespace, digest, cursor) if cursor else ""
