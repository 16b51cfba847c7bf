"""Configuration between the wire and the domain."""

from collections.abc import Sequence

from controlplane.api.convert.requests import reason_from_proto
from controlplane.api.convert.values import (
    json_to_struct,
    json_to_value,
    ms_to_timestamp,
    struct_to_json,
)
from controlplane.domain.configs import (
    ConfigDifference,
    ConfigLayer,
    EffectiveConfig,
    LayerKind,
    LayerScope,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.services.config_watch import ConfigBookmark, ConfigUpdate, Held
from controlplane.services.configs import ConfigChange, ConfigChanged
from controlplane.services.convergence import MAX_REPORTED, Converged
from controlplane.services.ports import Position, RequestKey
from fleetplane.v1 import agent_pb2, watch_pb2
from fleetplane.v1 import config_service_pb2 as pb

MAX_WATCHED_SCOPES = 1000
"""Scopes of one WatchConfig stream; a process with more agents opens a second stream."""

RENDERED_CONFIGS = 8192
"""Rendered configurations remembered: about 1 KiB each."""


def scope_from_proto(scope: pb.ConfigScope, field: str = "scope") -> LayerScope:
    """Return the scope of a layer.

    Raises:
        InvalidArgument: more than one of the fields is set, or a target is malformed.
    """
    named = [
        name
        for name, is_set in (
            ("agent_name", bool(scope.agent_name)),
            ("agent_id", bool(scope.agent_id)),
            ("emergency", scope.emergency),
        )
        if is_set
    ]
    if len(named) > 1:
        raise InvalidArgument.of(field, f"sets {' and '.join(named)}; at most one is allowed")
    try:
        if scope.agent_name:
            return LayerScope(LayerKind.AGENT_NAME, scope.agent_name)
        if scope.agent_id:
            return LayerScope(LayerKind.AGENT_ID, scope.agent_id)
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(f"{field}.{named[0]}", v.description) for v in error.violations)
        ) from None
    return LayerScope(LayerKind.EMERGENCY if scope.emergency else LayerKind.NAMESPACE)


def readable_scope_from_proto(scope: pb.ConfigScope, field: str = "scope") -> LayerScope:
    """Return a scope that has an effective configuration.

    Raises:
        InvalidArgument: as `scope_from_proto`, and for `emergency`.
    """
    result = scope_from_proto(scope, field)
    if result.kind is LayerKind.EMERGENCY:
        raise InvalidArgument.of(
            f"{field}.emergency", "has no effective configuration; read an agent or the namespace"
        )
    return result


def scope_to_proto(scope: LayerScope) -> pb.ConfigScope:
    """Return the scope of a layer as a message."""
    match scope.kind:
        case LayerKind.AGENT_NAME:
            return pb.ConfigScope(agent_name=scope.target)
        case LayerKind.AGENT_ID:
            return pb.ConfigScope(agent_id=scope.target)
        case LayerKind.EMERGENCY:
            return pb.ConfigScope(emergency=True)
        case _:
            return pb.ConfigScope()


def effective_to_proto(config: EffectiveConfig) -> pb.EffectiveConfig:
    """Return merged configuration as a message; it is remembered, so it must not be changed."""
    key = (config.digest, config.revision)
    rendered = _RENDERED.get(key)
    if rendered is None:
        if len(_RENDERED) >= RENDERED_CONFIGS:
            _RENDERED.clear()
        rendered = _RENDERED[key] = _render(config)
    return rendered


_RENDERED: dict[tuple[str, int], pb.EffectiveConfig] = {}


def _render(config: EffectiveConfig) -> pb.EffectiveConfig:
    return pb.EffectiveConfig(
        model=config.model,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        max_retries=config.max_retries,
        timeout_seconds=config.timeout_seconds,
        rate_limit_rpm=config.rate_limit_rpm,
        features=config.features,
        blocked_tools=config.blocked_tools,
        allowed_domains=config.allowed_domains or (),
        restrict_domains=config.allowed_domains is not None,
        extra=json_to_struct(config.extra) if config.extra else None,
        revision=config.revision,
        digest=config.digest,
    )


def sources_to_proto(config: EffectiveConfig) -> list[pb.ConfigSource]:
    """Return where every leaf comes from; list entries as `path[entry]`."""
    sources = [
        pb.ConfigSource(path=path, layer=source.scope, revision=source.revision)
        for path, source in sorted(config.sources.items())
    ]
    for path, entries in sorted(config.element_sources.items()):
        for entry, layers in sorted(entries.items()):
            sources.extend(
                pb.ConfigSource(
                    path=f"{path}[{entry}]", layer=source.scope, revision=source.revision
                )
                for source in layers
            )
    return sources


def layer_to_proto(layer: ConfigLayer) -> pb.ConfigLayer:
    """Return a sparse layer as a message."""
    return pb.ConfigLayer(
        scope=scope_to_proto(layer.scope),
        values=json_to_struct(layer.values),
        may_widen=sorted(layer.may_widen),
        revision=layer.revision,
        author=layer.author,
        reason=layer.reason,
        updated_at=ms_to_timestamp(layer.updated_at_ms) if layer.revision else None,
        restored_from=layer.restored_from,
    )


def change_from_proto(request: pb.UpdateConfigRequest, key: RequestKey | None) -> ConfigChange:
    """Return what UpdateConfig asks for.

    Raises:
        InvalidArgument: a malformed scope or reason; paths are judged by the domain.
    """
    return ConfigChange(
        scope=scope_from_proto(request.scope),
        set_=struct_to_json(request.set, "set"),
        unset=tuple(request.unset),
        may_widen=tuple(request.may_widen.paths) if request.HasField("may_widen") else None,
        expected_revision=(
            request.expected_revision if request.HasField("expected_revision") else None
        ),
        reason=reason_from_proto(request.reason),
        dry_run=request.dry_run,
        request=key,
    )


def changed_to_proto(outcome: ConfigChanged) -> pb.UpdateConfigResponse:
    """Return what a change did."""
    return pb.UpdateConfigResponse(
        layer=layer_to_proto(outcome.layer),
        agents=[
            pb.AgentConfigDifference(
                agent_id=agent_id, differences=[_difference_to_proto(d) for d in differences]
            )
            for agent_id, differences in outcome.agents
        ],
        affected_agents=outcome.affected_agents,
        notes=outcome.notes,
        changed=outcome.changed,
    )


def _difference_to_proto(difference: ConfigDifference) -> pb.ConfigDifference:
    return pb.ConfigDifference(
        path=difference.path,
        before=json_to_value(difference.before) if difference.before is not None else None,
        after=json_to_value(difference.after) if difference.after is not None else None,
    )


def watched_from_proto(
    watched: Sequence[pb.WatchedScope],
) -> list[tuple[LayerScope, Held | None]]:
    """Return the scopes of a watch and what the client holds of each.

    Raises:
        InvalidArgument: none, more than 1,000, one twice, or a malformed one.
    """
    if not 0 < len(watched) <= MAX_WATCHED_SCOPES:
        raise InvalidArgument.of("scopes", f"must hold 1-{MAX_WATCHED_SCOPES} scopes")
    seen: dict[LayerScope, Held | None] = {}
    for index, item in enumerate(watched):
        scope = readable_scope_from_proto(item.scope, f"scopes[{index}].scope")
        if scope in seen:
            raise InvalidArgument.of(f"scopes[{index}].scope", f"{scope.key} is there twice")
        held = item.held
        holds_something = bool(held.epoch or held.revision or item.held_digest)
        seen[scope] = Held(held.epoch, held.revision, item.held_digest) if holds_something else None
    return list(seen.items())


def watch_event_to_proto(event: ConfigUpdate | ConfigBookmark) -> pb.WatchConfigResponse | bytes:
    """Return one message of WatchConfig; of an update its bytes, shared but for the scopes."""
    if isinstance(event, ConfigBookmark):
        return pb.WatchConfigResponse(
            position=position_to_proto(event.position),
            bookmark=True,
            synced=event.synced,
        )
    scopes = pb.WatchConfigResponse(scopes=[scope_to_proto(scope) for scope in event.scopes])
    return scopes.SerializeToString() + _shared_update(event)


def _shared_update(event: ConfigUpdate) -> bytes:
    """Return what an update says to every watcher of its configuration, serialised once."""
    config, position = event.config, event.position
    key = (config.digest, config.revision, position.epoch, position.revision, event.synced)
    shared = _SHARED.get(key)
    if shared is None:
        if len(_SHARED) >= RENDERED_CONFIGS:
            _SHARED.clear()
        shared = _SHARED[key] = pb.WatchConfigResponse(
            config=effective_to_proto(config),
            position=position_to_proto(position),
            synced=event.synced,
        ).SerializeToString()
    return shared


_SHARED: dict[tuple[str, int, str, int, bool], bytes] = {}


def position_to_proto(position: Position) -> watch_pb2.WatchPosition:
    """Return a position without its fingerprint, which is between replicas and the store."""
    return watch_pb2.WatchPosition(epoch=position.epoch, revision=position.revision)


def convergence_to_proto(outcome: Converged) -> pb.WaitForConvergenceResponse:
    """Return who runs a configuration and who does not."""
    return pb.WaitForConvergenceResponse(
        converged=not outcome.laggards,
        converged_instances=outcome.converged,
        laggards=[
            pb.ConfigLaggard(
                instance_id=live.instance.instance_id,
                agent_id=live.instance.agent_id,
                config=agent_pb2.ConfigAcknowledgement(
                    attempted_revision=live.config_attempted,
                    running_revision=live.config_running,
                    status=agent_pb2.ConfigStatus.ValueType(live.config_status),
                    error=live.config_error,
                ),
            )
            for live in outcome.laggards[:MAX_REPORTED]
        ],
    )
