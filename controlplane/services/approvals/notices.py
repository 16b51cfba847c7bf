"""Tells a webhook about approvals: who has to decide, and what became of it."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from controlplane.domain.approvals import outbox
from controlplane.domain.approvals.model import Approval
from controlplane.domain.approvals.outbox import Delivery
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

AT_ONCE: Final = 20
"""Messages of one namespace under way: a receiver that hangs must not be asked about everything."""

LOOK_ANEW_MS: Final = 5_000
"""How long nothing is looked for while no record changes: retries and reminders come that late at
most, and a namespace with a hundred thousand old approvals costs next to nothing."""

_log = logging.getLogger("fleetplane.webhook")


class WebhookRefused(Exception):
    """The receiver did not acknowledge; says why in a few words."""


class Webhook(Protocol):
    """Somebody else's server."""

    async def post(self, message_id: str, timestamp: int, body: bytes) -> None:
        """Deliver a message; `timestamp` in seconds since 1970. Bounded in time.

        Raises:
            WebhookRefused: it was not acknowledged, or nobody knows whether it was.
        """


Render = Callable[[str, Approval], Mapping[str, Any]]
"""An approval of a namespace as plain JSON, as the contract shows it."""


class ApprovalNotices:
    """Carried on by every replica; claims keep them from telling the same twice."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, webhook: Webhook, render: Render
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._webhook = webhook
        self._render = render
        self._looked: dict[str, tuple[int, int, int]] = {}
        """namespace -> versions of what was looked at, and when, if nothing was due"""

    async def tick(self, namespace: str) -> int:
        """Tell what is due, and forget approvals that are gone; return how many were told of.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        view = self._read_model.view(namespace)
        if self._is_quiet(view):
            return 0
        await self._forget(view)
        due, reminders = self._due(view)
        if not due and not reminders:
            self._looked[namespace] = (*_versions(view), self._clock.store_ms())
        outcomes = await asyncio.gather(
            *(self._tell(view, *item) for item in due[:AT_ONCE]),
            *(self._remind(view, *item) for item in reminders[:AT_ONCE]),
            return_exceptions=True,  # nothing goes on unowned when one of them fails
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in outcomes)

    def _is_quiet(self, view: NamespaceView) -> bool:
        """Return whether nothing has changed since nothing was due, a short while ago."""
        looked = self._looked.get(view.name)
        return (
            looked is not None
            and looked[:2] == _versions(view)
            and self._clock.store_ms() - looked[2] < LOOK_ANEW_MS
        )

    def _due(
        self, view: NamespaceView
    ) -> tuple[list[tuple[Approval, Delivery | None]], list[tuple[Approval, Delivery, int]]]:
        """Return what has to be told, and whom to remind after which share of the time."""
        deliveries = view.governance.table(Collection.WEBHOOK_OUTBOX)
        now_ms = self._clock.store_ms()
        news: list[tuple[Approval, Delivery | None]] = []
        reminders: list[tuple[Approval, Delivery, int]] = []
        for approval_id, approval in view.governance.table(Collection.APPROVALS).items():
            delivery = deliveries.get(approval_id)
            state = approval.state
            if outbox.is_due(delivery, state, ended_at_ms=approval.ended_at_ms, now_ms=now_ms):
                news.append((approval, delivery))
                continue
            share = outbox.reminder(
                delivery,
                state,
                opened_at_ms=approval.opened_at_ms,
                expires_at_ms=approval.expires_at_ms,
                now_ms=now_ms,
            )
            if share and delivery is not None:
                reminders.append((approval, delivery, share))
        return news, reminders

    async def _remind(
        self, view: NamespaceView, approval: Approval, known: Delivery, share: int
    ) -> bool:
        """Say once that time is passing."""
        after = outbox.reminding(known, share, now_ms=self._clock.store_ms())
        before = Expect(revision=known.revision)
        if await self._keep(view.name, after, before, "webhook.reminded") is None:
            return False  # another replica does
        try:
            await self._webhook.post(*self._message(view.name, approval, "reminder", share))
        except WebhookRefused as refused:
            _log.warning(
                "a reminder was not delivered",
                extra={
                    "namespace": view.name,
                    "approval_id": approval.approval_id,
                    "error": str(refused),
                },
            )
            return False
        return True

    async def _tell(self, view: NamespaceView, approval: Approval, known: Delivery | None) -> bool:
        """Claim, post, and write down what came of it."""
        claim = outbox.claimed(
            known, approval.approval_id, approval.state, now_ms=self._clock.store_ms()
        )
        before = ABSENT if known is None else Expect(revision=known.revision)
        revision = await self._keep(view.name, claim, before, "webhook.claimed")
        if revision is None:
            return False  # another replica tells it
        try:
            state = approval.state.lower()
            await self._webhook.post(*self._message(view.name, approval, state))
        except WebhookRefused as refused:
            after = outbox.failed(claim, str(refused), now_ms=self._clock.store_ms())
            event = "webhook.failed"
            _log.warning(
                "a webhook was not delivered",
                extra={
                    "namespace": view.name,
                    "approval_id": approval.approval_id,
                    "attempt": after.attempts,
                    "error": after.error,
                },
            )
        else:
            after = outbox.delivered(claim, now_ms=self._clock.store_ms())
            event = "webhook.delivered"
        await self._keep(view.name, after, Expect(revision=revision), event)
        return not after.error

    def _message(
        self, namespace: str, approval: Approval, what: str, share: int = 0
    ) -> tuple[str, int, bytes]:
        timestamp = self._clock.store_ms() // 1000
        data = dict(self._render(namespace, approval))
        message_id = f"{namespace}.{approval.approval_id}.{approval.revision}"
        if share:
            data["time_passed_percent"] = share
            message_id += f".{share}"
        body = {"type": f"approval.{what}", "timestamp": timestamp, "data": data}
        return message_id, timestamp, json.dumps(body, ensure_ascii=False).encode()

    async def _keep(
        self, namespace: str, delivery: Delivery, before: Expect, event: str
    ) -> int | None:
        """Write the record; return its revision, None if somebody else was first."""
        put = Put(Collection.WEBHOOK_OUTBOX, delivery.approval_id, delivery, before)
        return await self._commit(namespace, (put,), delivery, event)

    async def _forget(self, view: NamespaceView) -> None:
        approvals = view.governance.table(Collection.APPROVALS)
        table = view.governance.table(Collection.WEBHOOK_OUTBOX)
        for approval_id, delivery in list(table.items()):
            if approval_id not in approvals:
                delete = Delete(
                    Collection.WEBHOOK_OUTBOX, approval_id, Expect(revision=delivery.revision)
                )
                await self._commit(view.name, (delete,), delivery, "webhook.forgotten")

    async def _commit(
        self, namespace: str, steps: tuple[Step, ...], delivery: Delivery, event: str
    ) -> int | None:
        audit = AuditEntry(
            actor=PLANE,
            method="Webhook",
            object=f"approvals/{delivery.approval_id}",
            event=event,
            reason=delivery.error,
            details={"state": delivery.state},
        )
        transaction = Transaction(namespace=namespace, steps=steps, audit=audit)
        try:
            return (await self._ledger.commit(transaction)).revision
        except ConditionFailed:
            return None


def _versions(view: NamespaceView) -> tuple[int, int]:
    """Return what changes with everything that is looked at."""
    governance = view.governance
    return (
        governance.version(Collection.APPROVALS),
        governance.version(Collection.WEBHOOK_OUTBOX),
    )
