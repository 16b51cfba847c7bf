"""What another replica was faster with is told as it was: version, variant, phase and reason."""

from controlplane.domain.prompts.model import PromptReason
from controlplane.services.prompts.ports import PromptUse, PromptVariant
from controlplane.services.prompts.resolution import Question
from controlplane.services.read_model import NamespaceView
from tests.fakes.no_experiments import NoExperiments
from tests.fakes.plane import NS
from tests.fakes.prompt_world import ADA, PROMPT, PromptWorld


class Dealing(NoExperiments):
    """Deals version 1 to everybody, in phase 3, until it ends."""

    ended = False

    def assign(
        self, view: NamespaceView, prompt: str, *, agent_name: str, unit: str
    ) -> PromptVariant | None:
        del view, prompt, agent_name, unit
        if self.ended:
            return None
        return PromptVariant(experiment="exp", variant="b", version=1, phase=3)

    async def exposed(self, namespace: str, use: PromptUse) -> bool:
        del namespace, use
        return True


async def test_a_pin_of_another_replica_at_the_same_version_keeps_its_reason() -> None:
    dealing = Dealing()
    first = PromptWorld(experiments=dealing)
    await first.follow()
    await first.write("Hello")
    await first.move(1)
    second = first.beside()
    await second.follow()
    question = Question(prompt=PROMPT, session_id="s-1")
    here = await first.resolution.resolve(NS, question, ADA)
    dealing.ended = True  # the second replica has heard of that, and not of the pin
    there = await second.resolution.resolve(NS, question, ADA)
    assert there == here
    assert (there.reason, there.experiment, there.phase) == (PromptReason.EXPERIMENT, "exp", 3)
