"""Namespaces as the client offers them: make, change, remove them, and see what they use."""

from collections.abc import AsyncIterator, Mapping
from typing import TypedDict

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane.v1 import namespace_service_pb2 as pb


class QuotaFields(TypedDict, total=False):
    """Bounds of a namespace; what is 0 or missing has no bound but the daemon's own."""

    agents: int
    """Agents that are not decommissioned."""
    instances: int
    """Registered instances."""
    streams: int
    """Open heartbeat and task streams, per replica."""
    watches: int
    """Open watches, per replica."""
    policies: int
    """Policies."""
    config_bytes: int
    """Bytes of all configuration layers, as JSON."""
    waiting_tasks: int
    """Tasks that are neither running nor ended."""
    calls_per_second: int
    """Calls per second, per replica; beats do not count."""
    prompts: int
    """Prompts."""
    prompt_bytes: int
    """Bytes of all versions of all prompts, each counted with 1 KiB more."""


class NamespaceCalls(Connected):
    """Tenants and their quotas, for administrators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. An empty `name` means
    the client's own namespace. What the caller may not see does not exist for it: `NotFound`
    (NAMESPACE_NOT_FOUND).
    """

    async def create_namespace(
        self,
        name: str,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        quotas: QuotaFields | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Namespace:
        """Make a namespace.

        Args:
            name: 1-63 of [a-z0-9-].
            description: what it is for.
            labels: labels of its owners.
            quotas: its bounds.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            AlreadyExists: the name is taken (NAMESPACE_EXISTS).
        """
        connection = self.connection
        request = pb.CreateNamespaceRequest(
            name=name,
            description=description,
            labels=labels,
            quotas=None if quotas is None else pb.Quotas(**quotas),
            request_id=request_id or new_request_id(),
        )
        return (
            await connection.call(connection.namespaces.CreateNamespace, request, timeout)
        ).namespace

    async def get_namespace(self, name: str = "", *, timeout: float | None = None) -> pb.Namespace:
        """Return a namespace."""
        connection = self.connection
        request = pb.GetNamespaceRequest(namespace=name or self.namespace)
        return (
            await connection.call(connection.namespaces.GetNamespace, request, timeout)
        ).namespace

    async def list_namespaces_page(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> pb.ListNamespacesResponse:
        """Return one page of the namespaces that the caller may see, by name."""
        connection = self.connection
        request = pb.ListNamespacesRequest(page_size=page_size, page_token=page_token)
        return await connection.call(connection.namespaces.ListNamespaces, request, timeout)

    async def list_namespaces(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.Namespace]:
        """Iterate over the namespaces that the caller may see, by name, page by page."""
        token = ""
        while True:
            page = await self.list_namespaces_page(
                page_size=page_size, page_token=token, timeout=timeout
            )
            for namespace in page.namespaces:
                yield namespace
            token = page.next_page_token
            if not token:
                return

    async def update_namespace(
        self,
        name: str = "",
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        quotas: QuotaFields | None = None,
        expected_revision: int = 0,
        reason: str = "",
        timeout: float | None = None,
    ) -> pb.Namespace:
        """Change a namespace; what is None stays.

        Args:
            name: which one.
            description: what it is for.
            labels: labels to set; an empty value removes one.
            quotas: all its bounds: what is not among them has none any more.
            expected_revision: the revision the caller has seen; 0: any.
            reason: why.
            timeout: see the class.

        Raises:
            RevisionConflict: the namespace is not at `expected_revision`.
            FailedPrecondition: it is being removed (NAMESPACE_TERMINATING).
        """
        connection = self.connection
        request = pb.UpdateNamespaceRequest(
            namespace=name or self.namespace,
            description=description,
            labels=labels,
            quotas=None if quotas is None else pb.Quotas(**quotas),
            expected_revision=expected_revision,
            reason=reason,
        )
        return (
            await connection.call(connection.namespaces.UpdateNamespace, request, timeout)
        ).namespace

    async def delete_namespace(
        self,
        name: str,
        *,
        expected_revision: int = 0,
        reason: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Remove an empty namespace; False if there was none. Idempotent. It takes about 5 s.

        Raises:
            FailedPrecondition: it holds something (NAMESPACE_NOT_EMPTY); `metadata` says how much.
            RevisionConflict: it is not at `expected_revision`.
        """
        connection = self.connection
        request = pb.DeleteNamespaceRequest(
            namespace=name, expected_revision=expected_revision, reason=reason
        )
        return (
            await connection.call(connection.namespaces.DeleteNamespace, request, timeout)
        ).removed

    async def get_usage(
        self, name: str = "", *, timeout: float | None = None
    ) -> pb.GetUsageResponse:
        """Return what is used of each quota of a namespace, and its bounds."""
        connection = self.connection
        request = pb.GetUsageRequest(namespace=name or self.namespace)
        return await connection.call(connection.namespaces.GetUsage, request, timeout)
