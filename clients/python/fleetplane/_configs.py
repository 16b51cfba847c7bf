"""Configuration as the client offers it: read, write, history, watch."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from fleetplane._calls import new_request_id
from fleetplane._config import NAMESPACE, EffectiveConfig, Scope
from fleetplane._connected import Connected
from fleetplane._values import JsonValue, one_of, to_struct
from fleetplane._watches import ConfigWatch
from fleetplane.v1 import config_service_pb2 as pb


class ConfigCalls(Connected):
    """Configuration in layers: defaults, namespace, agent name, agent id, emergency.

    `timeout` is the deadline of a call in seconds over all attempts (None: the channel's default).
    """

    async def get_config(
        self, scope: Scope = NAMESPACE, *, min_revision: int = 0, timeout: float | None = None
    ) -> EffectiveConfig:
        """Return the merged configuration of a scope."""
        request = pb.GetConfigRequest(
            namespace=self.namespace, scope=scope.to_message(), min_revision=min_revision
        )
        connection = self.connection
        response = await connection.call(connection.configs.GetConfig, request, timeout)
        return EffectiveConfig.from_message(response.config)

    async def explain_config(
        self, scope: Scope = NAMESPACE, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetConfigResponse:
        """Return the merged configuration of a scope, its layers and where every leaf is from."""
        request = pb.GetConfigRequest(
            namespace=self.namespace,
            scope=scope.to_message(),
            explain=True,
            min_revision=min_revision,
        )
        connection = self.connection
        return await connection.call(connection.configs.GetConfig, request, timeout)

    async def update_config(
        self,
        set: Mapping[str, JsonValue] | None = None,  # noqa: A002  # the word of the contract
        *,
        scope: Scope = NAMESPACE,
        unset: str | Sequence[str] = (),
        may_widen: Sequence[str] | None = None,
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.UpdateConfigResponse:
        """Set and unset paths of one layer.

        Args:
            set: dotted paths to set, such as `{"temperature": 0.2, "features.web_search": True}`.
            scope: which layer; by default that of the namespace.
            unset: dotted paths to remove from the layer.
            may_widen: paths whose bound layers below may exceed; None keeps the list.
            expected_revision: refuse if the layer is not at this revision; 0: must not exist yet.
            reason: why, for history and audit.
            dry_run: validate and report what would change for whom; write nothing.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            InvalidArgument: a path or value is wrong; `violations` name `set.<path>`.
            RevisionConflict: somebody else changed the layer.
        """
        request = pb.UpdateConfigRequest(
            namespace=self.namespace,
            scope=scope.to_message(),
            set=to_struct(set or {}),
            unset=one_of(unset),
            may_widen=None if may_widen is None else pb.PathList(paths=may_widen),
            reason=reason,
            dry_run=dry_run,
            request_id=request_id or new_request_id(),
        )
        if expected_revision is not None:
            request.expected_revision = expected_revision
        connection = self.connection
        return await connection.call(connection.configs.UpdateConfig, request, timeout)

    async def list_config_revisions_page(
        self,
        scope: Scope = NAMESPACE,
        *,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> pb.ListConfigRevisionsResponse:
        """Return one page of the history of a layer, newest first."""
        request = pb.ListConfigRevisionsRequest(
            namespace=self.namespace,
            scope=scope.to_message(),
            page_size=page_size,
            page_token=page_token,
        )
        connection = self.connection
        return await connection.call(connection.configs.ListConfigRevisions, request, timeout)

    async def list_config_revisions(
        self, scope: Scope = NAMESPACE, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.ConfigLayer]:
        """Iterate over the history of a layer, newest first; `timeout` is that of one page."""
        token = ""
        while True:
            page = await self.list_config_revisions_page(
                scope, page_size=page_size, page_token=token, timeout=timeout
            )
            for layer in page.revisions:
                yield layer
            token = page.next_page_token
            if not token:
                return

    async def rollback_config(
        self,
        to_revision: int,
        *,
        scope: Scope = NAMESPACE,
        expected_revision: int | None = None,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.ConfigLayer:
        """Restore the values a layer had at an older revision, as a new revision.

        Raises:
            NotFound: the history of the layer does not hold that revision (REVISION_NOT_FOUND).
            RevisionConflict: somebody else changed the layer.
        """
        request = pb.RollbackConfigRequest(
            namespace=self.namespace,
            scope=scope.to_message(),
            to_revision=to_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        if expected_revision is not None:
            request.expected_revision = expected_revision
        connection = self.connection
        response = await connection.call(connection.configs.RollbackConfig, request, timeout)
        return response.layer

    async def get_extra_schema(
        self, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetExtraSchemaResponse:
        """Return the JSON Schema that `extra` has to fit; `schema` is absent if there is none."""
        request = pb.GetExtraSchemaRequest(namespace=self.namespace, min_revision=min_revision)
        connection = self.connection
        return await connection.call(connection.configs.GetExtraSchema, request, timeout)

    async def set_extra_schema(
        self,
        schema: Mapping[str, JsonValue],
        *,
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        force: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.SetExtraSchemaResponse:
        """Register the JSON Schema that `extra` has to fit in this namespace.

        Args:
            schema: JSON Schema, draft 2020-12, for the object `extra`, such as
                `{"properties": {"team": {"type": "string"}}}`. Empty removes it.
            expected_revision: refuse if the schema is not at this revision; 0: never set yet.
            reason: why, for the audit.
            dry_run: validate and report what stored configuration violates; write nothing.
            force: set it although stored configuration violates it.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            InvalidArgument: it is no schema that can be used (`violations` name `schema.<path>`),
                or layers or agents violate it (`violations` name `schema` and say which).
            LimitExceeded: it is larger than 64 KiB, or has too many parts.
            RevisionConflict: somebody else changed the schema.
        """
        request = pb.SetExtraSchemaRequest(
            namespace=self.namespace,
            schema=to_struct(schema),
            reason=reason,
            dry_run=dry_run,
            force=force,
            request_id=request_id or new_request_id(),
        )
        if expected_revision is not None:
            request.expected_revision = expected_revision
        connection = self.connection
        return await connection.call(connection.configs.SetExtraSchema, request, timeout)

    async def wait_for_convergence(
        self, revision: int, *, scope: Scope = NAMESPACE, timeout: float = 60.0
    ) -> pb.WaitForConvergenceResponse:
        """Wait until every live instance in a scope runs at least `revision`; name the laggards.

        Args:
            revision: that must run.
            scope: whose instances; by default all of the namespace.
            timeout: seconds to wait, at most 600. Shortly before it has passed the daemon answers
                `converged = False`.
        """
        request = pb.WaitForConvergenceRequest(
            namespace=self.namespace, scope=scope.to_message(), revision=revision
        )
        connection = self.connection
        return await connection.call(connection.configs.WaitForConvergence, request, timeout)

    def watch_config(self, scopes: Scope | Iterable[Scope] = NAMESPACE) -> ConfigWatch:
        """Watch the merged configuration of 1-1,000 scopes on one stream, across reconnects.

        Yields the present configuration of every scope first, then every newer one; a slow reader
        skips intermediate ones, never the newest.
        """
        connection = self.connection

        def open_at(watched: list[pb.WatchedScope]) -> object:
            request = pb.WatchConfigRequest(namespace=self.namespace, scopes=watched)
            return connection.configs.WatchConfig(request, metadata=connection.call.metadata)

        watched = (scopes,) if isinstance(scopes, Scope) else scopes
        return ConfigWatch(open_at, watched, caller=connection.call)
