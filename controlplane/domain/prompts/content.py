"""What a version may say, and its digest."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from controlplane.domain.configs.document import encoded
from controlplane.domain.errors import FieldViolation, InvalidArgument, LimitExceeded
from controlplane.domain.prompts.model import PromptContent, PromptType
from fleetplane_prompts import TemplateError, VariableSpec, variable_names
from fleetplane_prompts.template import is_variable_name

MAX_CONTENT_BYTES: Final = 256 * 1024
"""Bytes of all messages of a version together, by contract."""

MAX_MESSAGES: Final = 100
"""Messages of a chat: examples included, more is a transcript."""

MAX_VARIABLES: Final = 100
"""Variables of a version."""

MAX_CONFIG_BYTES: Final = 16 * 1024
"""Bytes of the config as JSON: parameters of a model, not data."""

MAX_DESCRIPTION_BYTES: Final = 1024
"""Bytes of what a variable is for."""

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Who may speak in a chat."""

DIGEST_PREFIX: Final = "sha256:"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL: Final = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(content: PromptContent) -> str:
    """Return the digest of what a version says: the same in every process and release."""
    said = {
        "v": 1,
        "type": content.type.value,
        "messages": [[message.role, message.content] for message in content.messages],
        "variables": {
            name: [spec.type.value, spec.required, spec.max_length, spec.description]
            for name, spec in content.variables.items()
        },
        "config": dict(content.config),
    }
    return DIGEST_PREFIX + hashlib.sha256(encoded(said)).hexdigest()


def size_of(content: PromptContent) -> int:
    """Return the bytes of all messages together."""
    return sum(len(message.content.encode()) for message in content.messages)


def checked(content: PromptContent) -> PromptContent:
    """Return what is stored: every variable that is named and not declared is a required string.

    Raises:
        InvalidArgument: anything is wrong, such as `text`, `messages[2].role`, `variables.name`.
        LimitExceeded: it is larger than 256 KiB, or its config than 16 KiB.
    """
    size = size_of(content)
    if size > MAX_CONTENT_BYTES:
        raise LimitExceeded("the content of a prompt in bytes", limit=MAX_CONTENT_BYTES)
    if content.config and len(encoded(dict(content.config))) > MAX_CONFIG_BYTES:
        raise LimitExceeded("the config of a prompt in bytes", limit=MAX_CONFIG_BYTES)
    wrong = [*_message_violations(content), *_variable_violations(content.variables)]
    used: set[str] = set()
    for index, message in enumerate(content.messages):
        try:
            used |= variable_names((message.content,))
        except TemplateError as error:
            wrong.append(FieldViolation(_place(content, index), str(error)))
    if not wrong:
        wrong.extend(
            FieldViolation(f"variables.{name}", "is not in the content")
            for name in content.variables
            if name not in used
        )
        if len(used) > MAX_VARIABLES:
            raise LimitExceeded("variables of a prompt", limit=MAX_VARIABLES)
    if wrong:
        raise InvalidArgument(*wrong)
    specs = {name: content.variables.get(name, VariableSpec()) for name in sorted(used)}
    return replace(content, variables=specs)


def _place(content: PromptContent, index: int) -> str:
    return "text" if content.type is PromptType.TEXT else f"messages[{index}].content"


def _message_violations(content: PromptContent) -> Iterator[FieldViolation]:
    if content.type is PromptType.TEXT:
        if not content.text:
            yield FieldViolation("text", "is required")
        elif "\0" in content.text:
            yield FieldViolation("text", "holds a NUL character")
        return
    if not 1 <= len(content.messages) <= MAX_MESSAGES:
        yield FieldViolation("messages", f"must have 1-{MAX_MESSAGES} entries")
        return
    for index, message in enumerate(content.messages):
        if message.role not in ROLES:
            roles = ", ".join(sorted(ROLES))
            yield FieldViolation(f"messages[{index}].role", f"must be one of {roles}")
        if not message.content:
            yield FieldViolation(f"messages[{index}].content", "is required")
        elif "\0" in message.content:
            yield FieldViolation(f"messages[{index}].content", "holds a NUL character")


def _variable_violations(variables: Mapping[str, VariableSpec]) -> Iterator[FieldViolation]:
    for name, spec in variables.items():
        if not is_variable_name(name):
            yield FieldViolation(
                "variables.name", "must be 1-64 of [A-Za-z0-9_], not beginning with a digit"
            )
        if spec.max_length > MAX_CONTENT_BYTES:
            yield FieldViolation(
                f"variables.{name}.max_length", f"must be at most {MAX_CONTENT_BYTES:,}"
            )
        if len(spec.description.encode()) > MAX_DESCRIPTION_BYTES:
            yield FieldViolation(
                f"variables.{name}.description", f"is longer than {MAX_DESCRIPTION_BYTES:,} bytes"
            )


def check_name(name: str, field: str = "prompt") -> str:
    """Return the name of a prompt.

    Raises:
        InvalidArgument: it is not 1-128 of `[A-Za-z0-9._-]`, beginning with a letter or digit.
    """
    if not name:
        raise InvalidArgument.of(field, "is required")
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument.of(
            field, "must be 1-128 of [A-Za-z0-9._-], beginning with a letter or digit"
        )
    return name


def check_label(label: str, field: str = "label") -> str:
    """Return the name of a label.

    Raises:
        InvalidArgument: it is not 1-64 of `[a-z0-9._-]`, beginning with a letter.
    """
    if _LABEL.fullmatch(label) is None:
        raise InvalidArgument.of(field, "must be 1-64 of [a-z0-9._-], beginning with a letter")
    return label


def check_digest(digest: str, field: str) -> str:
    """Return a digest.

    Raises:
        InvalidArgument: it is not `sha256:` and 64 hexadecimal digits.
    """
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidArgument.of(field, "must be sha256: and 64 lower-case hexadecimal digits")
    return digest


def leaves_of(content: PromptContent) -> dict[str, Any]:
    """Return config and variables by path, for comparisons: `config.model`, `variables.x.type`."""
    found: dict[str, Any] = {"type": content.type.value}
    for key, value in content.config.items():
        _lay(found, f"config.{key}", value)
    for name, spec in content.variables.items():
        found[f"variables.{name}.type"] = spec.type.value
        found[f"variables.{name}.required"] = spec.required
        if spec.max_length:
            found[f"variables.{name}.max_length"] = spec.max_length
        if spec.description:
            found[f"variables.{name}.description"] = spec.description
    return found


def _lay(found: dict[str, Any], path: str, value: Any) -> None:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _lay(found, f"{path}.{key}", item)
    else:
        found[path] = value
