"""Runtime configuration of agents: sparse layers, merged on read, every leaf explained.

- `layers`: what somebody set, and for whom
- `schema`: which settings there are, their ranges and defaults, how they combine
- `validation`, `changes`: from a request to a new layer
- `merge`: from layers to what an agent runs
- `effects`: what a change does, before it is made
- `extra_schema`, `schema_document`, `extra_validator`: the JSON Schema of a namespace's extra keys
- `acks`: what instances answer
"""

from controlplane.domain.configs.acks import AckStatus, ConfigAck, absorb
from controlplane.domain.configs.changes import apply_change, rollback_change
from controlplane.domain.configs.document import Json
from controlplane.domain.configs.effects import (
    ConfigDifference,
    NarrowingNote,
    diff,
    effective_violations,
    narrowing_notes,
)
from controlplane.domain.configs.layers import (
    ConfigLayer,
    LayerKind,
    LayerScope,
    layer_key,
    scopes_for_agent,
)
from controlplane.domain.configs.merge import EffectiveConfig, LayerSource, merge
from controlplane.domain.configs.schema import (
    BASE_SCHEMA,
    Combine,
    ConfigLimits,
    ConfigSchema,
    ExtraValidator,
    FieldRule,
    ValueType,
)
from controlplane.domain.configs.validation import validate_values

__all__ = [
    "BASE_SCHEMA",
    "AckStatus",
    "Combine",
    "ConfigAck",
    "ConfigDifference",
    "ConfigLayer",
    "ConfigLimits",
    "ConfigSchema",
    "EffectiveConfig",
    "ExtraValidator",
    "FieldRule",
    "Json",
    "LayerKind",
    "LayerScope",
    "LayerSource",
    "NarrowingNote",
    "ValueType",
    "absorb",
    "apply_change",
    "diff",
    "effective_violations",
    "layer_key",
    "merge",
    "narrowing_notes",
    "rollback_change",
    "scopes_for_agent",
    "validate_values",
]
