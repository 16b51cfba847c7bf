"""A watch over prompts: for each, which version every label is at, with the content."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fleetplane._calls import Caller
from fleetplane._config import NOWHERE, Position
from fleetplane._prompt_values import PromptVersion
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane.v1 import watch_pb2

OpenPrompts = Callable[[list[pb.WatchedPrompt]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """All that a watch tells of one prompt; replaces what was told before."""

    prompt: str
    """Which prompt."""
    exists: bool
    """False: there is none, or none any more. Nothing of it must be used."""
    labels: Mapping[str, PromptVersion]
    """The version that each label is at. What is not here must not be used any more."""
    agent_label: str = ""
    """Label that the agent gets instead of `production`."""
    experiment_active: bool = False
    """Versions differ by session: the plane has to be asked."""
    position: Position = NOWHERE
    """Everything up to here was delivered for this prompt."""


class PromptWatch(Watch[pb.WatchPromptsResponse, PromptState]):
    """Up to 1,000 prompts on one stream: each as it is now, then after every change.

    Goes on where it was after any interruption, without fetching again what it holds. A slow
    reader skips intermediate states, never the newest.
    """

    def __init__(
        self,
        open_at: OpenPrompts,
        prompts: Iterable[str],
        *,
        max_silence: float = MAX_SILENCE,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(max_silence, caller)
        self._open_at = open_at
        self._held: dict[str, tuple[Position, str]] = dict.fromkeys(prompts, (NOWHERE, ""))
        self._states: dict[str, PromptState] = {}
        self._contents: dict[tuple[str, int], PromptVersion] = {}
        self._synced = False
        self.heard_at = 0.0
        """Monotonic seconds of the last message; 0: there was none yet."""

    @property
    def synced(self) -> bool:
        """Whether every prompt has been brought up to date on the present stream."""
        return self._synced and self._connected and not self._ready

    def _open(self) -> Any:
        self._synced = False
        # A content whose update has not come is sent again with it.
        self._keep_contents()
        return self._open_at(
            [
                pb.WatchedPrompt(prompt=name, held=position.to_message(), held_digest=digest)
                for name, (position, digest) in self._held.items()
            ]
        )

    def _receive(self, message: pb.WatchPromptsResponse) -> watch_pb2.GoAway | None:
        self.heard_at = time.monotonic()
        match message.WhichOneof("event"):
            case "version":
                version = PromptVersion.from_message(message.version)
                self._contents[version.prompt, version.version] = version
            case "update":
                self._take(message.update, Position.from_message(message.position))
            case "go_away":
                return message.go_away
            case _:
                pass  # a bookmark, or an event this SDK is too old to know
        if message.synced:
            self._synced = True
        return None

    def _take(self, update: pb.PromptUpdate, position: Position) -> None:
        missing = [
            one.version
            for one in update.labels
            if (update.prompt, one.version) not in self._contents
        ]
        if missing:
            # A label without its content is of no use: begin anew with this prompt.
            self._held[update.prompt] = (NOWHERE, "")
            self._drop()
            self._wait = self._backoff.next()
            return
        self._ready.append(self._updated(update, position))
        self._held[update.prompt] = (position, update.digest)

    def _updated(self, update: pb.PromptUpdate, position: Position) -> PromptState:
        before = self._states.get(update.prompt)
        keeps = before is not None and not update.snapshot and not update.removed
        labels = dict(before.labels) if before is not None and keeps else {}
        for label in update.removed_labels:
            labels.pop(label, None)
        for one in update.labels:
            labels[one.label] = self._contents[update.prompt, one.version]
        state = PromptState(
            prompt=update.prompt,
            exists=not update.removed,
            labels=MappingProxyType(labels),
            agent_label=update.agent_label,
            experiment_active=update.experiment_active,
            position=position,
        )
        self._states[update.prompt] = state
        self._keep_contents(update.prompt)
        return state

    def _keep_contents(self, prompt: str = "") -> None:
        """Forget contents that no label is at: the daemon sends them again when one is."""
        used = {
            (name, version.version)
            for name, state in self._states.items()
            for version in state.labels.values()
        }
        for key in list(self._contents):
            if key not in used and prompt in {"", key[0]}:
                del self._contents[key]

    def _deliver(self, event: PromptState) -> None:
        """Nothing: what was read is held, delivered or not."""
