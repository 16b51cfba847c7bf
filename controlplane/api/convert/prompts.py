"""Prompts on the wire and in the domain."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Final

from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.evaluations import gate_to_proto
from controlplane.api.convert.requests import reason_from_proto, required
from controlplane.api.convert.values import (
    EnumPair,
    json_to_struct,
    json_to_value,
    moment,
    struct_to_json,
)
from controlplane.domain.access.name_patterns import check_agent_name
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.prompts.content import MAX_MESSAGES, MAX_VARIABLES, check_name
from controlplane.domain.prompts.differences import VersionDifference
from controlplane.domain.prompts.labels import movable
from controlplane.domain.prompts.model import (
    Label,
    LabelMove,
    Prompt,
    PromptContent,
    PromptMessage,
    PromptReason,
    PromptType,
    PromptVersion,
)
from controlplane.services.config_watch import Held
from controlplane.services.prompts.resolution import Resolved
from controlplane.services.prompts.watch import PromptEvent, PromptUpdate, Wanted
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane_prompts import Rendered, VariableSpec, VariableType

MAX_WATCHED_PROMPTS: Final = 1_000
"""Prompts of one stream, by contract."""

MAX_WATCHED_LABELS: Final = 16
"""Further labels of one stream, by contract."""

MAX_WATCHED_DIGEST: Final = 64
"""Characters of a digest that a watcher says it holds; ours have 32."""

RENDERED_CONTENTS: Final = 64
"""Contents that stay serialised for other watchers: at most 256 KiB each."""

_TYPES: Final = EnumPair(pb.PromptType, "PROMPT_TYPE_", PromptType)
_VARIABLES: Final = EnumPair(pb.PromptVariableType, "PROMPT_VARIABLE_TYPE_", VariableType)
_REASONS: Final = EnumPair(pb.PromptReason, "PROMPT_REASON_", PromptReason)


def content_from_proto(request: pb.CreatePromptVersionRequest) -> PromptContent:
    """Return what a version shall say; the domain judges it.

    Raises:
        InvalidArgument: text and messages together, a variable twice, a malformed config.
    """
    if request.text and request.messages:
        raise InvalidArgument.of("messages", "text and messages exclude each other")
    default = PromptType.CHAT if request.messages else PromptType.TEXT
    kind = _TYPES.from_wire(request.type, "type", unspecified=default)
    if kind is PromptType.TEXT and request.messages:
        raise InvalidArgument.of("messages", "must be empty for a text")
    if kind is PromptType.CHAT and request.text:
        raise InvalidArgument.of("text", "must be empty for a chat")
    if len(request.messages) > MAX_MESSAGES:
        raise InvalidArgument.of("messages", f"must have 1-{MAX_MESSAGES} entries")
    if kind is PromptType.TEXT:
        messages: tuple[PromptMessage, ...] = (PromptMessage(content=request.text),)
    else:
        messages = tuple(
            PromptMessage(role=one.role, content=one.content) for one in request.messages
        )
    return PromptContent(
        type=kind,
        messages=messages,
        variables=_variables_from_proto(request.variables),
        config=struct_to_json(request.config, "config"),
    )


def _variables_from_proto(variables: Iterable[pb.PromptVariable]) -> dict[str, VariableSpec]:
    specs: dict[str, VariableSpec] = {}
    for index, one in enumerate(variables):
        if index >= MAX_VARIABLES:
            raise InvalidArgument.of("variables", f"must have at most {MAX_VARIABLES} entries")
        if one.name in specs:
            raise InvalidArgument.of(f"variables[{index}].name", "is there twice")
        field = f"variables[{index}].type"
        specs[one.name] = VariableSpec(
            type=_VARIABLES.from_wire(one.type, field, unspecified=VariableType.STRING),
            required=not one.optional,
            max_length=one.max_length,
            description=one.description,
        )
    return specs


def version_to_proto(version: PromptVersion, *, with_content: bool = True) -> pb.PromptVersion:
    """Return a version, for lists without content, variables and config."""
    content = version.content
    message = pb.PromptVersion(
        prompt=version.prompt,
        version=version.version,
        type=_TYPES.to_wire(content.type),
        content_sha256=version.content_sha256,
        parent=version.parent,
        restored_from=version.restored_from,
        author=version.author,
        reason=version.reason,
        created_at=moment(version.created_at_ms),
        revision=version.revision,
        size_bytes=version.size_bytes,
    )
    if not with_content:
        return message
    if content.type is PromptType.TEXT:
        message.text = content.text
    else:
        message.messages.extend(
            pb.PromptMessage(role=one.role, content=one.content) for one in content.messages
        )
    message.variables.extend(
        pb.PromptVariable(
            name=name,
            type=_VARIABLES.to_wire(spec.type),
            optional=not spec.required,
            max_length=spec.max_length,
            description=spec.description,
        )
        for name, spec in content.variables.items()
    )
    message.config.CopyFrom(json_to_struct(content.config))
    return message


def label_to_proto(name: str, label: Label) -> pb.PromptLabel:
    """Return where a label is."""
    return pb.PromptLabel(
        label=name,
        version=label.version,
        revision=label.revision,
        moved_by=label.moved_by,
        reason=label.reason,
        moved_at=moment(label.moved_at_ms),
    )


def labels_to_proto(labels: Mapping[str, Label]) -> list[pb.PromptLabel]:
    """Return labels in order."""
    return [label_to_proto(name, label) for name, label in labels.items()]


def move_to_proto(move: LabelMove) -> pb.LabelMove:
    """Return one entry of the history of labels."""
    return pb.LabelMove(
        label=move.label,
        from_version=move.from_version,
        to_version=move.to_version,
        moved_by=move.moved_by,
        reason=move.reason,
        verdict=move.verdict,
        override_reason=move.override_reason,
        moved_at=moment(move.updated_at_ms),
        revision=move.revision,
    )


def difference_to_proto(found: VersionDifference) -> pb.DiffPromptVersionsResponse:
    """Return what differs between two versions."""
    return pb.DiffPromptVersionsResponse(
        text_diff=found.text,
        differences=[
            pb.PromptDifference(
                path=one.path,
                before=json_to_value(one.before) if one.before is not None else None,
                after=json_to_value(one.after) if one.after is not None else None,
            )
            for one in found.leaves
        ],
        same=found.same,
    )


def resolved_to_proto(resolved: Resolved) -> pb.ResolvePromptResponse:
    """Return which version is to be used, and why."""
    return pb.ResolvePromptResponse(
        version=version_to_proto(resolved.version),
        label=resolved.label,
        variant=resolved.variant,
        experiment=resolved.experiment,
        reason=_REASONS.to_wire(resolved.reason),
        pinned=resolved.pinned,
        revision=resolved.revision,
        experiment_phase=resolved.phase,
    )


def rendered_to_proto(version: PromptVersion, rendered: Rendered) -> pb.RenderPromptResponse:
    """Return a prompt with its variables filled in."""
    response = pb.RenderPromptResponse(
        version=version.version,
        content_sha256=version.content_sha256,
        size_bytes=rendered.size_bytes,
        estimated_tokens=rendered.estimated_tokens,
    )
    if version.content.type is PromptType.TEXT:
        response.text = rendered.messages[0].content
    else:
        response.messages.extend(
            pb.PromptMessage(role=one.role, content=one.content) for one in rendered.messages
        )
    return response


def wanted_from_proto(request: pb.WatchPromptsRequest) -> Wanted:
    """Return what a stream is about.

    Raises:
        InvalidArgument: none, more than 1,000, one twice, or a malformed name or label.
    """
    if not 1 <= len(request.prompts) <= MAX_WATCHED_PROMPTS:
        raise InvalidArgument.of("prompts", f"must hold 1-{MAX_WATCHED_PROMPTS:,} prompts")
    if len(request.labels) > MAX_WATCHED_LABELS:
        raise InvalidArgument.of("labels", f"must hold at most {MAX_WATCHED_LABELS} labels")
    labels = tuple(
        movable(required(one, f"labels[{index}]"), f"labels[{index}]") if one != "latest" else one
        for index, one in enumerate(request.labels)
    )
    if request.agent_name:
        check_agent_name(request.agent_name)
    prompts: dict[str, Held | None] = {}
    for index, item in enumerate(request.prompts):
        name = check_name(item.prompt, f"prompts[{index}].prompt")
        if name in prompts:
            raise InvalidArgument.of(f"prompts[{index}].prompt", f"{name} is there twice")
        if len(item.held_digest) > MAX_WATCHED_DIGEST:
            raise InvalidArgument.of(f"prompts[{index}].held_digest", "is no digest of ours")
        held = Held(item.held.epoch, item.held.revision, item.held_digest)
        prompts[name] = held if item.held_digest else None
    return Wanted(prompts=prompts, agent_name=request.agent_name, labels=labels)


def watch_event_to_proto(event: PromptEvent) -> pb.WatchPromptsResponse | bytes:
    """Return one message of WatchPrompts; of content its bytes, serialised once for all."""
    if event.content is not None:
        return _shared_content(event.content)
    response = pb.WatchPromptsResponse(
        position=position_to_proto(event.position), synced=event.synced
    )
    if event.update is not None:
        response.update.CopyFrom(_update_to_proto(event.update))
    else:
        response.bookmark = True
    return response


def _update_to_proto(update: PromptUpdate) -> pb.PromptUpdate:
    state = update.state
    return pb.PromptUpdate(
        prompt=update.prompt,
        snapshot=update.snapshot,
        labels=labels_to_proto(update.labels),
        removed_labels=update.removed_labels,
        removed=not state.exists,
        agent_label=state.agent_label,
        experiment_active=state.experiment_active,
        digest=state.digest,
    )


def _shared_content(version: PromptVersion) -> bytes:
    """Return what every watcher is told of a version.

    Told apart by all that is said of it: revisions are counted by namespace, so two of them may
    have the same content under the same name, number and revision, and other people wrote it.
    """
    key = (*(getattr(version, name) for name in _SAID_OF_VERSIONS),)
    shared = _SHARED.get(key)
    if shared is None:
        if len(_SHARED) >= RENDERED_CONTENTS:
            _SHARED.clear()
        message = pb.WatchPromptsResponse(version=version_to_proto(version))
        shared = _SHARED[key] = message.SerializeToString()
    return shared


_SAID_OF_VERSIONS: Final = tuple(
    field.name for field in fields(PromptVersion) if field.name != "content"
)
"""Its digest, which is one of them, stands for the content."""

_SHARED: dict[tuple[object, ...], bytes] = {}


def written_reason(reason: str) -> str:
    """Return why a prompt is changed: whoever changes what agents say, says why.

    Raises:
        InvalidArgument: it is missing, or longer than 1,024 bytes.
    """
    return reason_from_proto(required(reason, "reason"))


def prompt_to_proto(prompt: Prompt) -> pb.Prompt:
    """Return a prompt with its labels and gates."""
    return pb.Prompt(
        name=prompt.name,
        latest_version=prompt.latest_version,
        labels=labels_to_proto(prompt.all_labels()),
        agent_labels=prompt.agent_labels,
        gates=[gate_to_proto(label, gate) for label, gate in sorted(prompt.gates.items())],
        created_by=prompt.created_by,
        created_at=moment(prompt.created_at_ms),
        updated_at=moment(prompt.updated_at_ms),
        revision=prompt.revision,
    )
