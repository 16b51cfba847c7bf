"""Templates of prompts: text with variables, filled in strictly.

Pure and without dependencies, because the daemon and the agents that render in their own process
must get the same text, and the same refusals.
"""

from fleetplane_prompts.rendering import (
    MAX_RENDERED_BYTES,
    Rendered,
    RenderedMessage,
    estimated_tokens,
    render,
)
from fleetplane_prompts.template import (
    MAX_NAME_LENGTH,
    TemplateError,
    VariableError,
    VariableSpec,
    VariableType,
    escape,
    parse,
    variable_names,
)

__all__ = [
    "MAX_NAME_LENGTH",
    "MAX_RENDERED_BYTES",
    "Rendered",
    "RenderedMessage",
    "TemplateError",
    "VariableError",
    "VariableSpec",
    "VariableType",
    "escape",
    "estimated_tokens",
    "parse",
    "render",
    "variable_names",
]
