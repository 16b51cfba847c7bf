"""Credentials as the client offers them: enrolment, join tokens, API tokens, bans, who am I."""

from collections.abc import AsyncIterator
from datetime import timedelta

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._values import to_duration
from fleetplane.v1 import identity_service_pb2 as pb


class IdentityCalls(Connected):
    """Who callers are, for operators and for those who want to know who they are themselves.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. `namespace` is the
    client's own unless it is given; for API tokens `*` means everywhere.

    A secret appears in one answer only. If that answer is lost, the repeated call raises
    `AlreadyExists` (REQUEST_ID_REUSED) with the `token_id` in its metadata: revoke that token and
    make another one.
    """

    async def enroll(
        self, join_token: str, agent_name: str, csr: str, *, timeout: float | None = None
    ) -> pb.EnrollResponse:
        """Exchange a join token and a signing request for the identity of an agent.

        `EnrolledIdentity` does this, and all that follows, by itself.

        Args:
            join_token: the secret.
            agent_name: name of the agent.
            csr: PKCS #10 request in PEM.
            timeout: see the class.

        Raises:
            Unauthenticated: the join token is unknown, expired, used up or revoked.
            PermissionDenied: it is not for that name, or the agent is banned.
        """
        connection = self.connection
        request = pb.EnrollRequest(join_token=join_token, agent_name=agent_name, csr=csr)
        return await connection.call(connection.identity.Enroll, request, timeout)

    async def renew_certificate(
        self, csr: str, *, timeout: float | None = None
    ) -> pb.IssuedCertificate:
        """Replace the certificate that this client uses by a new one, for the key in the request.

        Raises:
            Unauthenticated: the client shows no certificate of an agent (CREDENTIAL_MISSING).
        """
        connection = self.connection
        request = pb.RenewCertificateRequest(csr=csr)
        return (
            await connection.call(connection.identity.RenewCertificate, request, timeout)
        ).issued

    async def create_join_token(
        self,
        agent_name_pattern: str = "*",
        *,
        max_uses: int | None = None,
        ttl: float | timedelta | None = None,
        description: str = "",
        namespace: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.CreateJoinTokenResponse:
        """Make a join token; `secret` of the answer is the only place where it appears.

        Args:
            agent_name_pattern: names it may be used for, `*` for any characters.
            max_uses: enrolments it is good for; None: one; 0: any number.
            ttl: how long it is good for; None: one hour; at most 365 days.
            description: what it is for.
            namespace: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.CreateJoinTokenRequest(
            namespace=namespace or self.namespace,
            agent_name_pattern=agent_name_pattern,
            max_uses=max_uses,
            ttl=to_duration(ttl),
            description=description,
            request_id=request_id or new_request_id(),
        )
        return await connection.call(connection.identity.CreateJoinToken, request, timeout)

    async def list_join_tokens_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.ListJoinTokensResponse:
        """Return one page of join tokens, oldest first."""
        connection = self.connection
        request = pb.ListJoinTokensRequest(
            namespace=namespace or self.namespace, page_size=page_size, page_token=page_token
        )
        return await connection.call(connection.identity.ListJoinTokens, request, timeout)

    async def list_join_tokens(
        self, *, page_size: int = 0, namespace: str = "", timeout: float | None = None
    ) -> AsyncIterator[pb.JoinToken]:
        """Iterate over all join tokens, oldest first, page by page."""
        token = ""
        while True:
            page = await self.list_join_tokens_page(
                page_size=page_size, page_token=token, namespace=namespace, timeout=timeout
            )
            for one in page.tokens:
                yield one
            token = page.next_page_token
            if not token:
                return

    async def revoke_join_token(
        self,
        token_id: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.JoinToken:
        """Make a join token useless; certificates got with it stay valid. Idempotent.

        Raises:
            NotFound: there is no such token (TOKEN_NOT_FOUND).
        """
        connection = self.connection
        request = pb.RevokeJoinTokenRequest(
            namespace=namespace or self.namespace, token_id=token_id, reason=reason
        )
        return (await connection.call(connection.identity.RevokeJoinToken, request, timeout)).token

    async def create_api_token(
        self,
        name: str,
        role: str,
        *,
        ttl: float | timedelta | None = None,
        namespace: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.CreateApiTokenResponse:
        """Make an API token with a role; `secret` of the answer is the only place it appears.

        Args:
            name: what it is called.
            role: role it gets, such as `operator`.
            ttl: how long it is good for; None: 90 days; 0: for ever; at most 10 years.
            namespace: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.CreateApiTokenRequest(
            namespace=namespace or self.namespace,
            name=name,
            role=role,
            ttl=to_duration(ttl),
            request_id=request_id or new_request_id(),
        )
        return await connection.call(connection.identity.CreateApiToken, request, timeout)

    async def list_api_tokens_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.ListApiTokensResponse:
        """Return one page of API tokens, oldest first."""
        connection = self.connection
        request = pb.ListApiTokensRequest(
            namespace=namespace or self.namespace, page_size=page_size, page_token=page_token
        )
        return await connection.call(connection.identity.ListApiTokens, request, timeout)

    async def list_api_tokens(
        self, *, page_size: int = 0, namespace: str = "", timeout: float | None = None
    ) -> AsyncIterator[pb.ApiToken]:
        """Iterate over all API tokens, oldest first, page by page."""
        token = ""
        while True:
            page = await self.list_api_tokens_page(
                page_size=page_size, page_token=token, namespace=namespace, timeout=timeout
            )
            for one in page.tokens:
                yield one
            token = page.next_page_token
            if not token:
                return

    async def revoke_api_token(
        self,
        token_id: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.ApiToken:
        """End an API token, its bindings and the streams opened with it. Idempotent.

        Raises:
            NotFound: there is no such token (TOKEN_NOT_FOUND).
        """
        connection = self.connection
        request = pb.RevokeApiTokenRequest(
            namespace=namespace or self.namespace, token_id=token_id, reason=reason
        )
        return (await connection.call(connection.identity.RevokeApiToken, request, timeout)).token

    async def ban_agent(
        self,
        agent_name: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.Ban:
        """Shut an agent name out, whatever credential it shows. Idempotent."""
        connection = self.connection
        request = pb.BanAgentRequest(
            namespace=namespace or self.namespace, agent_name=agent_name, reason=reason
        )
        return (await connection.call(connection.identity.BanAgent, request, timeout)).ban

    async def unban_agent(
        self,
        agent_name: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Take a ban back; False if there was none. Idempotent."""
        connection = self.connection
        request = pb.UnbanAgentRequest(
            namespace=namespace or self.namespace, agent_name=agent_name, reason=reason
        )
        return (await connection.call(connection.identity.UnbanAgent, request, timeout)).removed

    async def list_bans_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.ListBansResponse:
        """Return one page of bans, by agent name."""
        connection = self.connection
        request = pb.ListBansRequest(
            namespace=namespace or self.namespace, page_size=page_size, page_token=page_token
        )
        return await connection.call(connection.identity.ListBans, request, timeout)

    async def list_bans(
        self, *, page_size: int = 0, namespace: str = "", timeout: float | None = None
    ) -> AsyncIterator[pb.Ban]:
        """Iterate over all bans, by agent name, page by page."""
        token = ""
        while True:
            page = await self.list_bans_page(
                page_size=page_size, page_token=token, namespace=namespace, timeout=timeout
            )
            for ban in page.bans:
                yield ban
            token = page.next_page_token
            if not token:
                return

    async def who_am_i(self, *, timeout: float | None = None) -> pb.WhoAmIResponse:
        """Return who this client is to the daemon, and what it may do."""
        connection = self.connection
        return await connection.call(connection.identity.WhoAmI, pb.WhoAmIRequest(), timeout)
