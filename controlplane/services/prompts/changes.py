"""One change of one prompt: read it, decide, commit on condition that it is as it was read."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.model import Prompt, PromptVersion, version_key
from controlplane.domain.prompts.refusals import PromptNotFound, PromptVersionNotFound
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Step,
    Transaction,
)

MAX_ATTEMPTS = 8
"""Rounds of read-decide-commit before contention is reported (see services/registry.py)."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[Answer]):
    """What is to be written.

    Attributes:
        prompt: The prompt as it shall be.
        event: Public name of what happens.
        answer: Makes the caller's answer of the prompt as it was written, and the commit.
        steps: What is written with it.
        details: For the audit.
        remembered: What a repetition of the request is told.
    """

    prompt: Prompt
    event: str
    answer: Callable[[Prompt, Committed], Answer]
    steps: tuple[Step, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    remembered: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who wants a change, and how it shows in the audit."""

    namespace: str
    prompt: str
    method: str
    caller: Caller
    reason: str
    request: RequestKey | None = None


class PromptChanges:
    """Makes changes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def apply(
        self,
        order: Order,
        decide: Callable[[Prompt | None], Awaitable[Change[Answer] | Answer]],
        replayed: Callable[[Prompt, Committed], Awaitable[Answer]],
    ) -> Answer:
        """Decide on the newest state until the commit succeeds; return the answer.

        Args:
            order: Who wants it.
            decide: Makes the change of the prompt as it is (None: there is none), or the answer
                itself if nothing is to be written. Called again when somebody else was faster.
            replayed: Makes the answer for a request that was answered before.

        Raises:
            PromptNotFound: a request that was answered before is about a prompt that is gone.
            StoreUnavailable: too many callers change it at once, or the store does not answer.
        """
        for _ in range(MAX_ATTEMPTS):
            current = await self.read(order.namespace, order.prompt)
            if order.request is not None:
                before = await self._ledger.find_request(order.namespace, order.request)
                if before is not None:
                    return await replayed(_existing(current, order.prompt), before)
            change = await decide(current)
            if not isinstance(change, Change):
                return change
            try:
                committed = await self._ledger.commit(_transaction(order, current, change))
            except ConditionFailed:
                continue
            if committed.replayed:
                now = await self.read(order.namespace, order.prompt)
                return await replayed(_existing(now, order.prompt), committed)
            return change.answer(_stamped(change.prompt, committed), committed)
        raise StoreUnavailable(f"too many callers change prompt {order.prompt!r} at once")

    async def read(self, namespace: str, name: str) -> Prompt | None:
        """Return a prompt as the ledger has it."""
        (record,) = await self._ledger.read(namespace, Collection.PROMPTS, (name,))
        return record.value if record is not None else None

    async def read_version(self, namespace: str, name: str, version: int) -> PromptVersion:
        """Return a version as the ledger has it.

        Raises:
            PromptVersionNotFound: there is none.
        """
        key = version_key(name, version)
        (record,) = await self._ledger.read(namespace, Collection.PROMPT_VERSIONS, (key,))
        if record is None:
            raise PromptVersionNotFound(name, version)
        found: PromptVersion = record.value
        return found


def _existing(prompt: Prompt | None, name: str) -> Prompt:
    if prompt is None:
        raise PromptNotFound(name)
    return prompt


def _transaction(order: Order, current: Prompt | None, change: Change[Answer]) -> Transaction:
    unchanged = Expect(revision=current.revision if current is not None else 0)
    request = order.request
    return Transaction(
        namespace=order.namespace,
        steps=(
            Put(Collection.PROMPTS, order.prompt, change.prompt, unchanged),
            *change.steps,
        ),
        audit=AuditEntry(
            actor=order.caller.name,
            method=order.method,
            object=f"prompts/{order.prompt}",
            event=change.event,
            reason=order.reason,
            request_id=request.request_id if request is not None else "",
            details=change.details,
        ),
        request=request,
        answer=change.remembered,
    )


def _stamped(prompt: Prompt, committed: Committed) -> Prompt:
    return replace(
        prompt,
        revision=committed.revision,
        updated_at_ms=committed.at_ms,
        created_at_ms=prompt.created_at_ms or committed.at_ms,
    )
