"""Experiments on prompts, as the resolution of prompts asks for them."""

from controlplane.domain.errors import InvalidTransition
from controlplane.domain.experiments.dealing import is_for, own_variant
from controlplane.domain.experiments.model import Experiment, Subject, SubjectKind, UnitKind
from controlplane.domain.experiments.recording import Recorded, Seen
from controlplane.domain.experiments.refusals import ExperimentNotFound
from controlplane.domain.identity import Caller
from controlplane.services.experiments.assignment import assign, running_on
from controlplane.services.experiments.recorder import Entry, Recorder, Result
from controlplane.services.experiments.store import stored
from controlplane.services.families import PLANE
from controlplane.services.ports import Ledger
from controlplane.services.prompts.ports import PromptUse, PromptVariant
from controlplane.services.read_model import NamespaceView

_PROMPT = SubjectKind.PROMPT.lower()


class PromptUses:
    """`services.prompts.ports.PromptExperiments`."""

    def __init__(self, ledger: Ledger, recorder: Recorder) -> None:
        self._ledger = ledger
        self._recorder = recorder

    def is_active(self, view: NamespaceView, prompt: str) -> bool:
        """Return whether an experiment runs on a prompt."""
        return running_on(view, (_PROMPT, prompt)) is not None

    def assign(
        self, view: NamespaceView, prompt: str, *, agent_name: str, unit: str
    ) -> PromptVariant | None:
        """Return the variant of a unit; None: go on as if there were no experiment."""
        dealt = assign(view, (_PROMPT, prompt), agent_name=agent_name, unit=unit)
        if dealt is None or dealt.variant is None:
            return None
        return PromptVariant(
            experiment=dealt.experiment,
            variant=dealt.variant.name,
            version=dealt.variant.prompt_version,
            phase=dealt.phase,
        )

    async def exposed(self, namespace: str, use: PromptUse) -> bool:
        """Record that a unit has seen a variant; return whether there was anything to record.

        What a session has kept from an earlier phase is no exposure to this one. Nor is the use of
        another prompt, or by an agent that the experiment is not for: the answer to those is what
        the experiment was before, under the same key, and they would spoil this one.

        Raises:
            InvalidArgument: the digest is missing, or there is no such variant or phase.
            StoreUnavailable: the store does not answer.
        """
        try:
            experiment = await stored(self._ledger, namespace, use.experiment)
        except ExperimentNotFound:
            return False
        unit = use.agent_name if experiment.unit is UnitKind.AGENT else use.session_id
        if not unit or not experiment.running or not _is_about(experiment, use):
            return False
        if not use.phase and _is_kept(experiment, unit, use.variant):
            return False
        seen = Seen(
            unit=unit, variant=use.variant, digest=use.content_sha256, agent_name=use.agent_name
        )
        try:
            (result,) = await self._recorder.record(
                namespace,
                use.experiment,
                (Entry(report=seen, phase=use.phase),),
                caller=Caller(name=PLANE),
            )
        except InvalidTransition:
            return False  # it was stopped a moment ago
        if not isinstance(result, Result):
            raise result
        return result.recorded is not Recorded.IGNORED


def _is_about(experiment: Experiment, use: PromptUse) -> bool:
    subject = Subject(kind=SubjectKind.PROMPT, name=use.prompt)
    return experiment.subject == subject and is_for(experiment, use.agent_name)


def _is_kept(experiment: Experiment, unit: str, variant: str) -> bool:
    """Return whether a unit has a variant by an earlier phase, and not by the present one.

    For clients that do not say of which phase it is.
    """
    *earlier, present = experiment.phases
    own = own_variant(experiment.key, present, unit)
    if own is not None and own.name == variant:
        return False
    dealt = (own_variant(experiment.key, phase, unit) for phase in earlier)
    return any(one is not None and one.name == variant for one in dealt)
