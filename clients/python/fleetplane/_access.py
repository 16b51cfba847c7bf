"""Rights as the client offers them: roles, bindings, and whether a call would be permitted."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._values import one_of, to_duration
from fleetplane.v1 import access_service_pb2 as pb


class AccessCalls(Connected):
    """Who may do what, for administrators and auditors.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. `namespace` is the
    client's own unless it is given; `*` means everywhere. Subjects are `user:<name>`,
    `group:<name>`, `token:<token_id>` and `spiffe://<trust domain>/<path>`.
    """

    async def list_roles(self, *, timeout: float | None = None) -> list[pb.Role]:
        """Return the roles, which are built in, with their permissions."""
        connection = self.connection
        response = await connection.call(
            connection.access.ListRoles, pb.ListRolesRequest(), timeout
        )
        return list(response.roles)

    async def create_role_binding(
        self,
        subject: str,
        role: str,
        *,
        description: str = "",
        ttl: float | timedelta | None = None,
        namespace: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.RoleBinding:
        """Give a subject a role; the same binding twice is one binding.

        Args:
            subject: who; see the class.
            role: which role.
            description: why.
            ttl: how long it holds; None: for ever; at most 10 years.
            namespace: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            PermissionDenied: the caller is no admin there.
        """
        connection = self.connection
        request = pb.CreateRoleBindingRequest(
            namespace=namespace or self.namespace,
            subject=subject,
            role=role,
            description=description,
            ttl=to_duration(ttl),
            request_id=request_id or new_request_id(),
        )
        return (
            await connection.call(connection.access.CreateRoleBinding, request, timeout)
        ).binding

    async def list_role_bindings_page(
        self,
        *,
        subject: str = "",
        page_size: int = 0,
        page_token: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.ListRoleBindingsResponse:
        """Return one page of bindings, by subject; `subject` limits it to one."""
        connection = self.connection
        request = pb.ListRoleBindingsRequest(
            namespace=namespace or self.namespace,
            subject=subject,
            page_size=page_size,
            page_token=page_token,
        )
        return await connection.call(connection.access.ListRoleBindings, request, timeout)

    async def list_role_bindings(
        self,
        *,
        subject: str = "",
        page_size: int = 0,
        namespace: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[pb.RoleBinding]:
        """Iterate over all bindings, by subject, page by page; `subject` limits it to one."""
        token = ""
        while True:
            page = await self.list_role_bindings_page(
                subject=subject,
                page_size=page_size,
                page_token=token,
                namespace=namespace,
                timeout=timeout,
            )
            for binding in page.bindings:
                yield binding
            token = page.next_page_token
            if not token:
                return

    async def delete_role_binding(
        self,
        binding_id: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Take a binding away, and the streams that need it; False if there was none."""
        connection = self.connection
        request = pb.DeleteRoleBindingRequest(
            namespace=namespace or self.namespace, binding_id=binding_id, reason=reason
        )
        return (
            await connection.call(connection.access.DeleteRoleBinding, request, timeout)
        ).removed

    async def check_access(
        self,
        action: str,
        *,
        subjects: str | Sequence[str] = (),
        agent_name: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.CheckAccessResponse:
        """Answer whether a call would be permitted, and why.

        Args:
            action: full name of an RPC, such as `fleetplane.v1.RegistryService/UpdateAgent`, or a
                permission, such as `operate`.
            subjects: all subjects of the caller it is about; none: this client itself.
            agent_name: the agent that the call is about; matters for agents only.
            namespace: see the class.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.CheckAccessRequest(
            namespace=namespace or self.namespace,
            action=action,
            subjects=one_of(subjects),
            agent_name=agent_name,
        )
        return await connection.call(connection.access.CheckAccess, request, timeout)
