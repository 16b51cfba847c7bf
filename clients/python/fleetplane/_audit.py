"""The audit as the client offers it: read, follow, verify, export, trim it."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from fleetplane._audit_watch import AuditExporting, AuditVerifying, AuditWatch
from fleetplane._connected import Connected
from fleetplane._values import to_timestamp
from fleetplane.v1 import audit_service_pb2 as pb

SYSTEM: Final = "@system"
"""In place of a namespace: what belongs to none, such as rights and credentials."""


class AuditCalls(Connected):
    """The tamper-evident audit, for auditors; confirming exports and trimming, for administrators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. An empty `namespace`
    means the client's own; `@system` is what belongs to none.
    """

    async def list_audit_events_page(
        self,
        *,
        actor: str = "",
        method: str = "",
        object_prefix: str = "",
        event: str = "",
        after_sequence: int = 0,
        before_sequence: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        oldest_first: bool = False,
        namespace: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> pb.ListEventsResponse:
        """Return one page of entries; it may be empty and still have a next one.

        Args:
            actor: who did it; `*` stands for any characters.
            method: what was called, such as `Update*`.
            object_prefix: with what the object begins, such as `agents/`.
            event: what happened, such as `agent.*`.
            after_sequence: only higher ones.
            before_sequence: only lower ones; 0: any.
            since: only from this moment on.
            until: only before this moment.
            oldest_first: in ascending order; otherwise the newest come first.
            namespace: see the class.
            page_size: entries in the page, at most 1,000; 0: 100.
            page_token: from the page before.
            timeout: see the class.

        Raises:
            InvalidArgument: what it should begin after was trimmed (AUDIT_TRIMMED).
            ValueError: a moment has no time zone.
        """
        connection = self.connection
        request = pb.ListEventsRequest(
            namespace=namespace or self.namespace,
            filter=_filter(actor, method, object_prefix, event),
            after_sequence=after_sequence,
            before_sequence=before_sequence,
            since=None if since is None else to_timestamp(since),
            until=None if until is None else to_timestamp(until),
            oldest_first=oldest_first,
            page_size=page_size,
            page_token=page_token,
        )
        return await connection.call(connection.audit.ListEvents, request, timeout)

    async def list_audit_events(
        self,
        *,
        actor: str = "",
        method: str = "",
        object_prefix: str = "",
        event: str = "",
        after_sequence: int = 0,
        before_sequence: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        oldest_first: bool = False,
        namespace: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.AuditEvent]:
        """Iterate over entries page by page; see `list_audit_events_page`."""
        token = ""
        while True:
            page = await self.list_audit_events_page(
                actor=actor,
                method=method,
                object_prefix=object_prefix,
                event=event,
                after_sequence=after_sequence,
                before_sequence=before_sequence,
                since=since,
                until=until,
                oldest_first=oldest_first,
                namespace=namespace,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            )
            for one in page.events:
                yield one
            token = page.next_page_token
            if not token:
                return

    def watch_audit_events(
        self,
        *,
        actor: str = "",
        method: str = "",
        object_prefix: str = "",
        event: str = "",
        after_sequence: int | None = None,
        namespace: str = "",
    ) -> AuditWatch:
        """Follow entries in their order; none is left out or delivered twice.

        Args:
            actor: see `list_audit_events_page`, as the three below.
            method: what was called.
            object_prefix: with what the object begins.
            event: what happened.
            after_sequence: begin after this entry; 0: with the first. None: with what comes now.
            namespace: see the class.
        """
        connection = self.connection
        request = pb.WatchEventsRequest(
            namespace=namespace or self.namespace,
            filter=_filter(actor, method, object_prefix, event),
        )

        def open_at(after: int | None) -> object:
            if after is not None:
                request.after_sequence = after
            return connection.audit.WatchEvents(request, metadata=connection.call.metadata)

        return AuditWatch(open_at, after=after_sequence, caller=connection.call)

    async def get_audit_status(
        self, *, namespace: str = "", timeout: float | None = None
    ) -> pb.GetAuditStatusResponse:
        """Return how far the audit reaches, is sealed, was exported and trimmed."""
        connection = self.connection
        request = pb.GetAuditStatusRequest(namespace=namespace or self.namespace)
        return await connection.call(connection.audit.GetAuditStatus, request, timeout)

    def verifying_audit(
        self,
        *,
        expected_head: str = "",
        expected_sequence: int = 0,
        namespace: str = "",
    ) -> AuditVerifying:
        """Verify the audit; iterate for its progress and, at last, the `AuditVerification`.

        Args:
            expected_head: a head from an earlier verification or export: the audit must hold it.
            expected_sequence: the sequence that came with it; 0: not known.
            namespace: see the class.
        """
        connection = self.connection
        expected = pb.AuditCheckpoint(sequence=expected_sequence, head=expected_head)
        request = pb.VerifyAuditRequest(
            namespace=namespace or self.namespace, expected=expected if expected_head else None
        )
        return AuditVerifying(
            lambda: connection.audit.VerifyAudit(request, metadata=connection.call.metadata),
            caller=connection.call,
        )

    async def verify_audit(
        self,
        *,
        expected_head: str = "",
        expected_sequence: int = 0,
        namespace: str = "",
    ) -> pb.AuditVerification:
        """Verify the audit and return the result: `problem` is set if something is wrong.

        Raises:
            InvalidArgument: the expected head lies where the audit was trimmed (AUDIT_TRIMMED).
        """
        result = pb.AuditVerification()
        async with self.verifying_audit(
            expected_head=expected_head, expected_sequence=expected_sequence, namespace=namespace
        ) as steps:
            async for step in steps:
                if isinstance(step, pb.AuditVerification):
                    result = step
        return result

    def export_audit(self, *, after_sequence: int = 0, namespace: str = "") -> AuditExporting:
        """Export what is sealed: iterate over pieces of lines, and at last the checkpoint.

        Args:
            after_sequence: where an earlier export ended; 0: from the first entry there is.
            namespace: see the class.
        """
        connection = self.connection
        place = namespace or self.namespace

        def open_at(after: int | None) -> object:
            request = pb.ExportAuditRequest(namespace=place, after_sequence=after or 0)
            return connection.audit.ExportAudit(request, metadata=connection.call.metadata)

        return AuditExporting(open_at, after=after_sequence, caller=connection.call)

    async def confirm_audit_export(
        self,
        sequence: int,
        head: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> None:
        """Note that an export through a checkpoint is in safety; retention may go so far.

        Raises:
            FailedPrecondition: the audit has no such head there (AUDIT_NOT_EXPORTED).
        """
        connection = self.connection
        request = pb.ConfirmAuditExportRequest(
            namespace=namespace or self.namespace,
            checkpoint=pb.AuditCheckpoint(sequence=sequence, head=head),
            reason=reason,
        )
        await connection.call(connection.audit.ConfirmAuditExport, request, timeout)

    async def trim_audit(
        self,
        sequence: int,
        head: str,
        *,
        reason: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> pb.TrimAuditResponse:
        """Remove entries through a checkpoint for good. Idempotent.

        Raises:
            FailedPrecondition: it is not sealed so far, or has another head (AUDIT_NOT_EXPORTED).
        """
        connection = self.connection
        request = pb.TrimAuditRequest(
            namespace=namespace or self.namespace,
            checkpoint=pb.AuditCheckpoint(sequence=sequence, head=head),
            reason=reason,
        )
        return await connection.call(connection.audit.TrimAudit, request, timeout)


def _filter(actor: str, method: str, object_prefix: str, event: str) -> pb.AuditFilter:
    return pb.AuditFilter(actor=actor, method=method, object_prefix=object_prefix, event=event)
