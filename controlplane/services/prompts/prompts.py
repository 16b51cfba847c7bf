"""Versions of prompts: written, restored, read, compared as texts."""

import asyncio
from dataclasses import dataclass, replace

from controlplane.domain.errors import LimitExceeded, RevisionConflict
from controlplane.domain.identity import Caller
from controlplane.domain.namespaces import Quota
from controlplane.domain.prompts.content import checked, digest_of, size_of
from controlplane.domain.prompts.differences import VersionDifference, difference
from controlplane.domain.prompts.model import Prompt, PromptContent, PromptVersion, version_key
from controlplane.domain.prompts.refusals import PromptNotFound
from controlplane.services.namespaces.quotas import NO_QUOTAS, Claims, QuotaKeeper
from controlplane.services.ports import (
    ABSENT,
    Collection,
    Committed,
    Ledger,
    Position,
    Put,
    RequestKey,
)
from controlplane.services.prompts.catalogue import (
    VERSION_OVERHEAD_BYTES,
    PromptBytes,
    chosen_version,
    find_prompt,
    find_version,
    page_of_names,
    prompts_of,
)
from controlplane.services.prompts.changes import Change, Order, PromptChanges
from controlplane.services.read_model import ReadModel


@dataclass(frozen=True, slots=True)
class Written:
    """A version, and whether it was made by this call."""

    version: PromptVersion
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A version, the labels that are at it, and what the answer reflects."""

    version: PromptVersion
    labels: tuple[str, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPage:
    """Some prompts, by name."""

    prompts: tuple[Prompt, ...]
    total: int
    next_cursor: str
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPage:
    """Some versions of a prompt, newest first."""

    prompt: Prompt
    versions: tuple[PromptVersion, ...]
    next_cursor: str
    position: Position


class Prompts:
    """Keeps the prompts of all namespaces."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        *,
        max_prompts: int,
        max_bytes: int,
        quotas: QuotaKeeper = NO_QUOTAS,
    ) -> None:
        """Bound a namespace to `max_prompts` prompts and `max_bytes` of all their versions.

        Its own `quotas` may be narrower.

        Both are counted in this replica's copy: callers of several replicas who write at the same
        moment may pass them by what they write in some milliseconds.
        """
        self._changes = PromptChanges(ledger)
        self._read_model = read_model
        self._max_prompts = max_prompts
        self._max_bytes = max_bytes
        self._bytes = PromptBytes()
        self._quotas = quotas

    async def create(
        self,
        namespace: str,
        name: str,
        content: PromptContent,
        *,
        reason: str,
        force_new: bool,
        expected_latest: int | None,
        request: RequestKey | None,
        caller: Caller,
    ) -> Written:
        """Write a version; what equals the newest one is answered with that, unless `force_new`.

        Raises:
            InvalidArgument: the content is malformed; nothing was written.
            RevisionConflict: the newest version is not `expected_latest` (0: it must not exist).
            LimitExceeded: it is too large, or there are too many; of the namespace's own bounds
                QuotaExceeded.
            StoreUnavailable: too many callers change it at once.
        """
        stored = checked(content)
        draft = PromptVersion(
            prompt=name,
            version=0,
            content=stored,
            content_sha256=digest_of(stored),
            size_bytes=size_of(stored),
            author=caller.name,
            reason=reason,
        )
        order = Order(
            namespace=namespace,
            prompt=name,
            method="CreatePromptVersion",
            caller=caller,
            reason=reason,
            request=request,
        )
        return await self._write(order, draft, force_new=force_new, expected=expected_latest)

    async def restore(
        self,
        namespace: str,
        name: str,
        version: int,
        *,
        reason: str,
        expected_latest: int | None,
        request: RequestKey | None,
        caller: Caller,
    ) -> Written:
        """Write an old version again as a new one: content, variables and config.

        Raises:
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            RevisionConflict: the newest version is not `expected_latest`.
            LimitExceeded: there is no room left.
            StoreUnavailable: too many callers change it at once.
        """
        if await self._changes.read(namespace, name) is None:
            raise PromptNotFound(name)
        old = await self._changes.read_version(namespace, name, version)
        # Not the stored version itself: only what it says, under the same digest.
        draft = PromptVersion(
            prompt=name,
            version=0,
            content=old.content,
            content_sha256=old.content_sha256,
            size_bytes=old.size_bytes,
            restored_from=version,
            author=caller.name,
            reason=reason,
        )
        order = Order(
            namespace=namespace,
            prompt=name,
            method="RestorePromptVersion",
            caller=caller,
            reason=reason,
            request=request,
        )
        return await self._write(order, draft, force_new=False, expected=expected_latest)

    async def _write(
        self, order: Order, draft: PromptVersion, *, force_new: bool, expected: int | None
    ) -> Written:
        async def decide(current: Prompt | None) -> Change[Written] | Written:
            latest = current.latest_version if current is not None else 0
            if expected is not None and expected != latest:
                what = f"the newest version of prompt {order.prompt!r}"
                raise RevisionConflict(what, expected=expected, current=latest)
            is_same = current is not None and current.latest_sha256 == draft.content_sha256
            if is_same and not force_new:
                newest = await self._changes.read_version(order.namespace, order.prompt, latest)
                return Written(newest, created=False)
            self._check_room(order, current, draft, claims)
            return _next_version(order, current, replace(draft, version=latest + 1, parent=latest))

        async def replayed(_: Prompt, before: Committed) -> Written:
            version = int(before.answer)
            kept = await self._changes.read_version(order.namespace, order.prompt, version)
            return Written(kept, created=True)

        with self._quotas.claims(order.namespace) as claims:
            return await self._changes.apply(order, decide, replayed)

    def _check_room(
        self, order: Order, current: Prompt | None, draft: PromptVersion, claims: Claims
    ) -> None:
        name, view = order.prompt, self._read_model.view(order.namespace)
        if current is None:
            claims.take(Quota.PROMPTS, name, lambda view: name in prompts_of(view))
            if len(prompts_of(view)) >= self._max_prompts:
                raise LimitExceeded("prompts of a namespace", limit=self._max_prompts)
        present = self._bytes.of(view)
        needed = draft.size_bytes + VERSION_OVERHEAD_BYTES
        self._quotas.check(order.namespace, Quota.PROMPT_BYTES, present, needed)
        if present + needed > self._max_bytes:
            raise LimitExceeded("bytes of all prompts of a namespace", limit=self._max_bytes)

    async def get(
        self, namespace: str, name: str, *, version: int, label: str, min_revision: int
    ) -> Found:
        """Return a version by its number, or by a label (empty: the newest).

        Raises:
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            LabelNotFound: it has no such label.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        found = chosen_version(view, name, version, label)
        labels = find_prompt(view, name).all_labels()
        return Found(
            version=found,
            labels=tuple(key for key, one in labels.items() if one.version == found.version),
            position=view.position,
        )

    async def page(
        self, namespace: str, *, prefix: str, after: str, limit: int, min_revision: int
    ) -> PromptPage:
        """Return at most `limit` prompts behind a cursor, by name.

        Raises:
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        prompts, total, cursor = page_of_names(view, prefix, after, limit)
        return PromptPage(
            prompts=tuple(prompts), total=total, next_cursor=cursor, position=view.position
        )

    async def versions(
        self, namespace: str, name: str, *, before: int | None, limit: int, min_revision: int
    ) -> VersionPage:
        """Return at most `limit` versions below `before` (None: all), newest first.

        Raises:
            PromptNotFound: there is no such prompt.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        prompt = find_prompt(view, name)
        first = prompt.latest_version if before is None else before - 1
        last = max(first - limit, 0)
        return VersionPage(
            prompt=prompt,
            versions=tuple(find_version(view, name, n) for n in range(first, last, -1)),
            next_cursor=str(last + 1) if last else "",
            position=view.position,
        )

    async def diff(
        self, namespace: str, name: str, from_version: int, to_version: int
    ) -> VersionDifference:
        """Return what differs between two versions.

        Raises:
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            NotReady: nothing is loaded yet.
        """
        view = self._read_model.view(namespace)
        find_prompt(view, name)
        before = find_version(view, name, from_version)
        after = find_version(view, name, to_version)
        # Matching lines may take tenths of a second.
        return await asyncio.to_thread(difference, before, after)


def _next_version(order: Order, current: Prompt | None, fresh: PromptVersion) -> Change[Written]:
    """Return the change that makes `fresh` the newest version."""
    if current is None:
        base = Prompt(
            name=order.prompt,
            latest_version=0,
            latest_sha256="",
            created_by=order.caller.name,
        )
    else:
        base = current.settled()
    after = replace(base, latest_version=fresh.version, latest_sha256=fresh.content_sha256)
    key = version_key(order.prompt, fresh.version)

    def answer(_: Prompt, committed: Committed) -> Written:
        stamped = replace(fresh, revision=committed.revision, created_at_ms=committed.at_ms)
        return Written(stamped, created=True)

    return Change(
        prompt=after,
        event="prompt.version_created",
        steps=(Put(Collection.PROMPT_VERSIONS, key, fresh, ABSENT),),
        details={
            "version": str(fresh.version),
            "content_sha256": fresh.content_sha256,
            "restored_from": str(fresh.restored_from),
        },
        remembered=str(fresh.version),
        answer=answer,
    )
