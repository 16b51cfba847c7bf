"""Prompts in the agent's own process: kept up to date by one stream, resolved in microseconds."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Protocol, Self

from fleetplane._calls import MAX_BACKOFF, Backoff, is_final
from fleetplane._details import StatusDetails
from fleetplane._exceptions import DeadlineExceeded, FleetError, NotFound, Reason, Unavailable
from fleetplane._prompt_values import Fallback, PromptReason, ResolvedPrompt, fallback_prompt
from fleetplane._prompt_watch import PromptState, PromptWatch

_log: Final = logging.getLogger("fleetplane")

MAX_STALE: Final = 600.0
"""Seconds for which the last known state is used while the plane is away, by default."""

FIRST_SYNC: Final = 5.0
"""Seconds that entering waits for the first state; then fallbacks, where there are any."""

MAX_SESSIONS: Final = 10_000
"""Sessions whose version is remembered here; of others the plane is asked again."""

KEPT_ALIVE: Final = 1_800.0
"""Seconds after which the plane is asked again about a session that goes on. The plane forgets one
that nobody asked for in a day, by default: its next process would begin with another version."""

PRODUCTION: Final = "production"


class Resolve(Protocol):
    """Asks the plane."""

    def __call__(
        self, prompt: str, *, agent_id: str = "", session_id: str = ""
    ) -> Awaitable[ResolvedPrompt]:
        """Return what has to be used."""


class PromptCache:
    """Prompts of one agent, or of a program, in memory.

        async with client.prompt_cache(["greeting"], fallbacks={"greeting": "Hello."}) as prompts:
            greeting = await prompts.get("greeting", session_id=session)
            text = greeting.render(name="Ada")
            await client.mark_prompt_used(greeting)

    Without a session, and while no experiment runs, `get` answers from memory. The first question
    of a session goes to the plane, which keeps the answer for it on every replica. A label that is
    removed is gone here at once. While the plane is away the last known state is used for at most
    `max_stale` seconds; then it is an error, or the fallback that the program declared.

    Args:
        watch: tells of changes; ends with the cache.
        resolve: asks the plane.
        prompts: names.
        agent_id: who uses them.
        fallbacks: prompt -> what is used when there is nothing better.
        max_stale: see above.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        watch: PromptWatch,
        resolve: Resolve,
        *,
        prompts: Sequence[str],
        agent_id: str,
        fallbacks: Mapping[str, Fallback],
        max_stale: float = MAX_STALE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._resolve = resolve
        self._names = frozenset(prompts)
        self._agent_id = agent_id
        self._fallbacks = {name: fallback_prompt(name, one) for name, one in fallbacks.items()}
        self._max_stale = max_stale
        self._clock = clock
        self._states: dict[str, PromptState] = {}
        self._current: dict[str, ResolvedPrompt] = {}
        """What is answered from memory: prompt -> what everybody gets here."""
        self._sessions: OrderedDict[tuple[str, str], tuple[ResolvedPrompt, float]] = OrderedDict()
        """(prompt, session) -> what it keeps, and when the plane was last asked."""
        self._complete = asyncio.Event()
        self._refusal: FleetError | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def stale_seconds(self) -> float:
        """Seconds since the plane was last heard; at most about 15 while all is well."""
        heard = self._watch.heard_at
        return self._clock() - heard if heard else float("inf")

    async def __aenter__(self) -> Self:
        """Begin to watch; wait at most 5 s for the first state.

        Raises:
            FleetError: the daemon refuses the watch itself.
        """
        self._task = asyncio.get_running_loop().create_task(
            self._follow(), name="fleetplane-prompts"
        )
        try:
            async with asyncio.timeout(FIRST_SYNC):
                await self._complete.wait()
        except TimeoutError:
            _log.warning("no state of prompts yet: the plane does not answer")
        except BaseException:
            await self.aclose()
            raise
        if self._refusal is not None:
            await self.aclose()
            raise self._refusal
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._watch.aclose()

    async def get(
        self, prompt: str, *, session_id: str = "", fallback: Fallback | None = None
    ) -> ResolvedPrompt:
        """Return what has to be used now.

        Args:
            prompt: one of the names that the cache was made for.
            session_id: in which conversation: it keeps what it began with.
            fallback: what is used when there is nothing better; by default the one declared.

        Raises:
            NotFound: there is no such prompt, or no label applies, and there is no fallback.
            Unavailable: the plane has been away for longer than `max_stale`, and there is none.
            FleetError: the plane refuses, and there is none.
        """
        if session_id:
            kept = self._sessions.get((prompt, session_id))
            if kept is not None:
                self._sessions.move_to_end((prompt, session_id))
                known, asked_at = kept
                if self._clock() - asked_at > KEPT_ALIVE:
                    await self._keep_alive(known)
                return known
        try:
            state = self._states.get(prompt)
            asks = session_id or (state is not None and state.experiment_active)
            if asks:
                return await self._asked(prompt, session_id)
            return self.current(prompt)
        except FleetError:
            given = fallback_prompt(prompt, fallback) if fallback is not None else None
            found = given or self._fallbacks.get(prompt)
            if found is None:
                raise
            return replace(found, session_id=session_id, agent_id=self._agent_id)

    def current(self, prompt: str, *, label: str = "") -> ResolvedPrompt:
        """Return from memory what there is without sessions and experiments.

        Args:
            prompt: one of the names that the cache was made for.
            label: exactly this label; empty: the agent's, else `production`.

        Raises:
            KeyError: the cache was not made for this prompt.
            NotFound: there is no such prompt, or no such label.
            Unavailable: the last known state is older than `max_stale`, or there is none.
        """
        heard = self._watch.heard_at
        if not heard or self._clock() - heard > self._max_stale:
            raise Unavailable(self._stale(prompt))
        found = None if label else self._current.get(prompt)
        return found if found is not None else self._chosen(prompt, label)

    def _stale(self, prompt: str) -> str:
        if prompt not in self._names:
            raise KeyError(prompt)
        if not self._watch.heard_at:
            return "the plane was not reached yet"
        return f"the plane has been away for {self.stale_seconds:.0f} s"

    def _chosen(self, prompt: str, label: str) -> ResolvedPrompt:
        state = self._states.get(prompt)
        if state is None:
            raise Unavailable(self._stale(prompt))
        for name in (label,) if label else (state.agent_label, PRODUCTION):
            version = state.labels.get(name)
            if version is None:
                continue
            reason = PromptReason.PRODUCTION if name == PRODUCTION else PromptReason.AGENT_LABEL
            return ResolvedPrompt(
                version=version,
                reason=PromptReason.UNSPECIFIED if label else reason,
                label=name,
                agent_id=self._agent_id,
            )
        if not state.exists:
            details = StatusDetails(reason=Reason.PROMPT_NOT_FOUND, metadata={"prompt": prompt})
            raise NotFound(f"no prompt {prompt!r}", details)
        wanted = label or state.agent_label or PRODUCTION
        details = StatusDetails(
            reason=Reason.LABEL_NOT_FOUND, metadata={"prompt": prompt, "label": wanted}
        )
        raise NotFound(f"prompt {prompt!r} has no label {wanted!r}", details)

    async def _asked(self, prompt: str, session_id: str) -> ResolvedPrompt:
        """Ask the plane; while it is away, use what is known, without keeping it."""
        try:
            found = await self._resolve(prompt, agent_id=self._agent_id, session_id=session_id)
        except (Unavailable, DeadlineExceeded):
            return replace(self.current(prompt), session_id=session_id)
        if found.pinned:
            self._sessions[prompt, session_id] = found, self._clock()
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return found

    async def _keep_alive(self, kept: ResolvedPrompt) -> None:
        """Have the plane remember what a session keeps; whatever it says, the session keeps it."""
        prompt, session_id = kept.name, kept.session_id
        self._sessions[prompt, session_id] = kept, self._clock()  # others need not ask as well
        try:
            await self._resolve(prompt, agent_id=self._agent_id, session_id=session_id)
        except FleetError as error:
            _log.debug("a session could not be prolonged: %s", error)

    async def _follow(self) -> None:
        """Take what the watch tells, whatever happens to it."""
        backoff = Backoff(1.0, MAX_BACKOFF)
        while True:
            try:
                async for state in self._watch:
                    self._take(state)
                    backoff.reset()
            except FleetError as error:
                _log.warning("the watch of prompts was refused: %s", error)
                if is_final(error):
                    self._refusal = error
                    self._complete.set()
                    return
            except Exception:  # noqa: BLE001  # a defect of ours must not freeze a whole process
                _log.exception("the watch of prompts failed")
            else:
                return
            await asyncio.sleep(backoff.next())

    def _take(self, state: PromptState) -> None:
        self._states[state.prompt] = state
        try:
            self._current[state.prompt] = self._chosen(state.prompt, "")
        except NotFound:
            self._current.pop(state.prompt, None)
        if self._names <= self._states.keys():
            self._complete.set()
