"""Prompts over the memory store: one store, any number of replicas that follow when told to."""

from typing import Any

from controlplane.domain.identity import Caller
from controlplane.domain.prompts.evaluations import Evaluation, ScoredItem
from controlplane.domain.prompts.model import (
    LabelGate,
    Prompt,
    PromptContent,
    PromptMessage,
    PromptType,
)
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import Collection
from controlplane.services.prompts.evaluations import Evaluations, Run
from controlplane.services.prompts.labels import Move, Moved, PromptLabels
from controlplane.services.prompts.pins import PromptPins
from controlplane.services.prompts.ports import PromptExperiments
from controlplane.services.prompts.prompts import Prompts, Written
from controlplane.services.prompts.resolution import PromptResolution, Question, Resolved
from controlplane.services.prompts.watch import PromptWatch
from controlplane.services.read_model import NamespaceView
from tests.fakes.no_experiments import NoExperiments
from tests.fakes.plane import NS, Plane

ADA = Caller(name="ada")
PROMPT = "greeting"
DATASET = "sha256:" + "a" * 64
GATE = LabelGate(dataset_sha256=DATASET, scorer="exact")
PIN_MS = 60_000


def text(template: str, **config: Any) -> PromptContent:
    """Return the content of a text."""
    return PromptContent(
        type=PromptType.TEXT, messages=(PromptMessage(content=template),), config=config
    )


def items(*scores: float, **fields: Any) -> tuple[ScoredItem, ...]:
    """Return items `i0`, `i1` ... with a trial each."""
    return tuple(
        ScoredItem(item_id=f"i{n}", scores=(score,), **fields) for n, score in enumerate(scores)
    )


class PromptWorld:
    """One replica. `beside` makes another one over the same store."""

    def __init__(
        self,
        *,
        experiments: PromptExperiments | None = None,
        plane: Plane | None = None,
        max_prompts: int = 1_000,
        max_bytes: int = 1 << 26,
        max_pins: int = 1_000,
        kept: int = 100,
    ) -> None:
        self.plane = plane or Plane()
        ledger, read_model = self.plane.ledger, self.plane.read_model
        self.experiments = experiments or NoExperiments()
        self.prompts = Prompts(ledger, read_model, max_prompts=max_prompts, max_bytes=max_bytes)
        self.evaluations = Evaluations(ledger, read_model, TimeSortedIds(), kept=kept)
        self.labels = PromptLabels(ledger, read_model, self.evaluations)
        self.pins = PromptPins(ledger, self.plane.clock, life_ms=PIN_MS, limit=max_pins)
        self.resolution = PromptResolution(read_model, self.pins, self.experiments)

    def beside(self) -> "PromptWorld":
        """Return another replica over the same store, on the same clock."""
        return PromptWorld(experiments=self.experiments, plane=Plane(beside=self.plane))

    @property
    def view(self) -> NamespaceView:
        return self.plane.read_model.view(NS)

    @property
    def prompt(self) -> Prompt:
        """The prompt as this replica knows it."""
        found: Prompt = self.view.governance.table(Collection.PROMPTS)[PROMPT]
        return found

    async def follow(self) -> None:
        await self.plane.follow()

    async def write(self, content: str | PromptContent, name: str = PROMPT, **how: Any) -> Written:
        """Write a version and follow."""
        stated: dict[str, Any] = {
            "reason": "better",
            "force_new": False,
            "expected_latest": None,
            "request": None,
            "caller": ADA,
        }
        said = text(content) if isinstance(content, str) else content
        written = await self.prompts.create(NS, name, said, **stated | how)
        await self.follow()
        return written

    async def restore(self, version: int, **how: Any) -> Written:
        """Restore a version and follow."""
        stated: dict[str, Any] = {"reason": "back", "expected_latest": None, "request": None}
        written = await self.prompts.restore(NS, PROMPT, version, caller=ADA, **stated | how)
        await self.follow()
        return written

    async def move(self, version: int, label: str = "production", **how: Any) -> Moved:
        """Move a label and follow."""
        move = Move(prompt=PROMPT, label=label, version=version, **{"reason": "go", **how})
        moved = await self.labels.move(NS, move, request=None, caller=ADA)
        await self.follow()
        return moved

    async def remove(self, label: str = "production") -> None:
        """Remove a label and follow."""
        await self.labels.remove(
            NS, PROMPT, label, expected_revision=None, reason="gone", request=None, caller=ADA
        )
        await self.follow()

    async def give(self, agent_name: str, label: str) -> None:
        """Give an agent a label and follow."""
        await self.labels.set_agent_label(
            NS, PROMPT, agent_name, label, reason="try", request=None, caller=ADA
        )
        await self.follow()

    async def gate(self, gate: LabelGate | None = GATE, label: str = "production") -> None:
        """Put a label under a gate and follow."""
        await self.labels.set_gate(
            NS,
            PROMPT,
            label,
            gate,
            expected_revision=None,
            reason="care",
            request=None,
            caller=ADA,
        )
        await self.follow()

    async def evaluate(
        self, version: int, scores: tuple[ScoredItem, ...], **how: Any
    ) -> Evaluation:
        """Record an evaluation and follow."""
        run = Run(
            prompt=PROMPT,
            version=version,
            items=scores,
            **{
                "dataset_sha256": DATASET,
                "scorer": "exact",
                "scorer_version": "",
                "model": "m",
                "seed": 1,
                **how,
            },
        )
        recorded = await self.evaluations.record(NS, run, request=None, caller=ADA)
        await self.follow()
        return recorded

    async def resolve(
        self, agent_id: str = "", session_id: str = "", *, pin: bool = True
    ) -> Resolved:
        """Resolve and follow."""
        question = Question(prompt=PROMPT, agent_id=agent_id, session_id=session_id, pin=pin)
        resolved = await self.resolution.resolve(NS, question, ADA)
        await self.follow()
        return resolved

    def watch(self) -> PromptWatch:
        """Return the core of a stream."""
        return PromptWatch(self.plane.read_model, self.plane.hub, self.experiments, NS)
