"""What the SDK remembers by itself: sessions that go on for days, and reports that were lost."""

from typing import Any

from fleetplane import AssignmentReason
from fleetplane._dealing import DealtVariant
from fleetplane._exceptions import InvalidArgument, Unavailable
from fleetplane._experiment_side import LocalExperiments
from fleetplane._prompt_cache import KEPT_ALIVE, PromptCache
from fleetplane._prompt_values import PromptMessage, PromptVersion, ResolvedPrompt
from fleetplane.v1 import experiment_service_pb2 as pb


class Desk:
    """A plane that counts questions, and forgets sessions when it is told to."""

    def __init__(self) -> None:
        self.now, self.version, self.asked, self.is_away = 100.0, 1, 0, False
        self.heard_at = 100.0

    async def resolve(
        self,
        prompt: str,
        *,
        agent_id: str = "",
        session_id: str = "",
    ) -> ResolvedPrompt:
        self.asked += 1
        if self.is_away:
            raise Unavailable("away")
        content = PromptVersion(
            prompt=prompt,
            version=self.version,
            messages=(PromptMessage("", "Hello"),),
            content_sha256="sha256:" + "a" * 64,
        )
        return ResolvedPrompt(
            version=content, pinned=True, session_id=session_id, agent_id=agent_id
        )


async def test_a_session_that_goes_on_is_asked_for_again_and_keeps_what_it_has() -> None:
    desk = Desk()
    cache = PromptCache(
        desk,  # type: ignore[arg-type]  # as much of a watch as is used
        desk.resolve,
        prompts=["greeting"],
        agent_id="agt-1",
        fallbacks={},
        clock=lambda: desk.now,
    )
    for _ in range(3):
        await cache.get("greeting", session_id="s-1")
    assert desk.asked == 1
    desk.now += KEPT_ALIVE + 1
    desk.version = 2  # the plane has forgotten the session: here it goes on as it began
    found = [await cache.get("greeting", session_id="s-1") for _ in range(3)]
    assert [one.version.version for one in found] == [1, 1, 1]
    assert desk.asked == 2
    desk.now += KEPT_ALIVE + 1
    desk.is_away = True
    assert (await cache.get("greeting", session_id="s-1")).version.version == 1
    assert desk.asked == 3


class Plane:
    """Takes reports, or refuses them."""

    BatchRecordExposures = "exposures"
    metadata = ()

    def __init__(self) -> None:
        self.experiments = self.call = self
        self.taken: list[Any] = []
        self.refuses = True

    async def __call__(self, method: str, request: Any) -> Any:
        if self.refuses:
            raise InvalidArgument("not now")
        self.taken += getattr(request, method)
        result = pb.RecordingResult(state=pb.RECORDING_STATE_RECORDED)
        return pb.BatchRecordExposuresResponse(results=[result])


async def test_an_exposure_that_was_lost_is_sent_when_the_unit_is_seen_again() -> None:
    plane = Plane()
    local = LocalExperiments(plane, "default", "writer")  # type: ignore[arg-type]  # a fake
    dealt = DealtVariant(
        experiment="e",
        phase=1,
        unit="s-1",
        variant="a",
        digest="d",
        reason=AssignmentReason.IN_EXPERIMENT,
    )
    local.expose(dealt)
    await local.flush()
    assert local.dropped == 1
    plane.refuses = False
    for _ in range(3):
        local.expose(dealt)
        await local.flush()
    assert [one.unit for one in plane.taken] == ["s-1"]
