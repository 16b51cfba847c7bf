"""The watch over prompts: what it holds, what it forgets, and how it goes on after its stream."""

from collections import deque
from typing import Any

import grpc

from fleetplane import PromptState, PromptWatch
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane.v1 import watch_pb2


class Stream:
    """A call that says what it was given and then ends."""

    def __init__(self, messages: list[pb.WatchPromptsResponse]) -> None:
        self._messages = deque(messages)

    async def read(self) -> Any:
        return self._messages.popleft() if self._messages else grpc.aio.EOF

    def cancel(self) -> None:
        self._messages.clear()


class Server:
    """Streams in their order, and what each was asked for."""

    def __init__(self, *streams: list[pb.WatchPromptsResponse]) -> None:
        self._streams = deque(streams)
        self.asked: list[list[pb.WatchedPrompt]] = []

    def open_at(self, watched: list[pb.WatchedPrompt]) -> Stream:
        self.asked.append(watched)
        return Stream(self._streams.popleft())

    def watch(self) -> PromptWatch:
        return PromptWatch(self.open_at, ["greeting"], max_silence=0)


def content(version: int) -> pb.WatchPromptsResponse:
    said = pb.PromptVersion(prompt="greeting", version=version, text=f"text {version}")
    return pb.WatchPromptsResponse(version=said)


def update(revision: int, **fields: Any) -> pb.WatchPromptsResponse:
    labels = [
        pb.PromptLabel(label=label, version=version)
        for label, version in fields.pop("labels", {}).items()
    ]
    said = pb.PromptUpdate(prompt="greeting", labels=labels, digest=f"d{revision}", **fields)
    position = watch_pb2.WatchPosition(epoch="e", revision=revision)
    return pb.WatchPromptsResponse(update=said, position=position)


def told(state: PromptState) -> dict[str, str]:
    return {label: version.text for label, version in state.labels.items()}


async def test_changes_are_told_as_whole_states() -> None:
    server = Server(
        [
            content(1),
            update(1, labels={"production": 1}, snapshot=True),
            content(2),
            update(2, labels={"canary": 2}),
            update(3, removed_labels=["production"]),
            update(4, removed=True),
        ]
    )
    async with server.watch() as watch:
        states = [await anext(watch) for _ in range(4)]
    assert [told(one) for one in states] == [
        {"production": "text 1"},
        {"production": "text 1", "canary": "text 2"},
        {"canary": "text 2"},
        {},
    ]
    assert [one.exists for one in states] == [True, True, True, False]


async def test_what_is_held_is_named_when_the_stream_is_opened_again() -> None:
    first = [content(1), update(1, labels={"production": 1}, snapshot=True)]
    server = Server(first, [content(2), update(2, labels={"production": 2})])
    async with server.watch() as watch:
        await anext(watch)
        state = await anext(watch)
    assert told(state) == {"production": "text 2"}
    (asked,) = server.asked[1]
    assert (asked.held_digest, asked.held.revision) == ("d1", 1)


async def test_a_label_without_its_content_has_the_prompt_begun_anew() -> None:
    server = Server(
        [content(1), update(1, labels={"production": 1}, snapshot=True)],
        [update(2, labels={"production": 7})],
        [content(7), update(2, labels={"production": 7}, snapshot=True)],
    )
    async with server.watch() as watch:
        await anext(watch)
        state = await anext(watch)
    assert told(state) == {"production": "text 7"}
    (asked,) = server.asked[2]
    assert not asked.held_digest
