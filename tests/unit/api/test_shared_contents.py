"""Content of prompts is serialised once for all watchers, of one namespace only."""

from dataclasses import replace

from controlplane.api.convert.prompts import watch_event_to_proto
from controlplane.domain.prompts.model import (
    PromptContent,
    PromptMessage,
    PromptType,
    PromptVersion,
)
from controlplane.services.ports import Position
from controlplane.services.prompts.watch import PromptEvent
from fleetplane.v1 import prompt_service_pb2 as pb

HERE = PromptVersion(
    prompt="greeting",
    version=1,
    content=PromptContent(type=PromptType.TEXT, messages=(PromptMessage(content="Hello."),)),
    content_sha256="sha256:" + "a" * 64,
    size_bytes=6,
    author="ann@one.example",
    reason="the secret plan of one",
    created_at_ms=1_000,
    revision=3,
)


def told(version: PromptVersion) -> pb.PromptVersion:
    event = PromptEvent(Position(epoch="e", revision=3), content=version)
    rendered = watch_event_to_proto(event)
    assert isinstance(rendered, bytes)
    return pb.WatchPromptsResponse.FromString(rendered).version


def test_the_same_content_at_the_same_revision_elsewhere_has_its_own_author() -> None:
    there = replace(HERE, author="bob@two.example", reason="ours", created_at_ms=2_000)
    assert told(HERE).author == "ann@one.example"
    assert (told(there).author, told(there).reason) == ("bob@two.example", "ours")
    first, again = (
        watch_event_to_proto(PromptEvent(Position(epoch="e", revision=9), content=HERE))
        for _ in range(2)
    )
    assert first is again
