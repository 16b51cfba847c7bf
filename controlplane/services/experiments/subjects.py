"""What experiments vary: whether variants exist, what their content is, how one is promoted.

Promotion is the use case that people have: moving a label, setting a path. Its rules hold, gates
and quotas among them, and it is a commit of its own, before the one that stops the experiment.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from controlplane.domain.configs import LayerKind, LayerScope, apply_change
from controlplane.domain.configs.document import digest
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.experiments.model import Experiment, Subject, SubjectKind, Variant
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.model import PRODUCTION, PromptVersion, version_key
from controlplane.services.configs import ConfigChange, Configs
from controlplane.services.prompts.labels import Move, PromptLabels
from controlplane.services.read_model import NamespaceView
from controlplane.services.transaction import Collection


class PromptPromotion(Protocol):
    """Moves labels of prompts."""

    async def promote(
        self, namespace: str, prompt: str, version: int, *, reason: str, caller: Caller
    ) -> None:
        """Move the label `production` to a version; nothing happens if it is there.

        Raises:
            DomainError: the label may not be moved there.
        """


class ProductionLabels:
    """The labels of prompts, as `PromptPromotion`."""

    def __init__(self, labels: PromptLabels) -> None:
        self._labels = labels

    async def promote(
        self, namespace: str, prompt: str, version: int, *, reason: str, caller: Caller
    ) -> None:
        """Move the label, if its gate lets it."""
        move = Move(prompt=prompt, label=PRODUCTION, version=version, reason=reason)
        await self._labels.move(namespace, move, request=None, caller=caller)


class Subjects:
    """Knows prompts and configuration."""

    def __init__(self, configs: Configs, prompts: PromptPromotion) -> None:
        self._configs = configs
        self._prompts = prompts

    def filled(
        self, view: NamespaceView, subject: Subject, variants: Sequence[Variant]
    ) -> tuple[Variant, ...]:
        """Return the variants with the digests of their content.

        Raises:
            InvalidArgument: a version does not exist, or a value does not fit its path.
        """
        wrong: list[FieldViolation] = []
        fill = _from_prompt if subject.kind is SubjectKind.PROMPT else _from_config
        filled = tuple(
            fill(view, subject.name, variant, f"variants[{index}]", wrong)
            for index, variant in enumerate(variants)
        )
        if wrong:
            raise InvalidArgument(*wrong)
        return filled

    async def promote(
        self,
        namespace: str,
        experiment: Experiment,
        variant: Variant,
        *,
        reason: str,
        caller: Caller,
    ) -> None:
        """Make a variant what everybody gets; nothing happens if it is.

        A path of configuration is set in the layer of the agent name, if the experiment is for one
        agent name only, else in that of the namespace.

        Raises:
            DomainError: it may not be; nothing was changed.
        """
        said = reason or f"experiment {experiment.key}: variant {variant.name}"
        if experiment.subject.kind is SubjectKind.PROMPT:
            await self._prompts.promote(
                namespace,
                experiment.subject.name,
                variant.prompt_version,
                reason=said,
                caller=caller,
            )
            return
        change = ConfigChange(
            scope=layer_of(experiment),
            set_={experiment.subject.name: variant.config_value},
            reason=said,
        )
        await self._configs.update(namespace, change, caller=caller)


def layer_of(experiment: Experiment) -> LayerScope:
    """Return the layer that a promoted value of configuration is set in."""
    match experiment.agents:
        case (name,) if "*" not in name:
            return LayerScope(LayerKind.AGENT_NAME, name)
        case _:
            return LayerScope(LayerKind.NAMESPACE)


def _from_prompt(
    view: NamespaceView, prompt: str, variant: Variant, where: str, wrong: list[FieldViolation]
) -> Variant:
    versions = view.governance.table(Collection.PROMPT_VERSIONS)
    found: PromptVersion | None = versions.get(version_key(prompt, variant.prompt_version))
    if found is None:
        said = f"prompt {prompt!r} has no version {variant.prompt_version}"
        wrong.append(FieldViolation(f"{where}.prompt_version", said))
        return variant
    return replace(variant, digest=found.content_sha256)


def _from_config(
    view: NamespaceView, path: str, variant: Variant, where: str, wrong: list[FieldViolation]
) -> Variant:
    try:
        apply_change(
            None,
            LayerScope(LayerKind.NAMESPACE),
            {path: variant.config_value},
            author="experiment",
            reason="",
            at_ms=0,
            schema=view.config_schema(),
        )
    except InvalidArgument as refusal:
        wrong += (
            FieldViolation(f"{where}.config_value", f"{path}: {one.description}")
            for one in refusal.violations
        )
        return variant
    return replace(variant, digest=digest(variant.config_value))
