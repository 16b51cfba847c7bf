"""Anchored globs: `*` stays inside one segment, `**` crosses segments, everything else is literal.

Segments end at the delimiters (`:`, `/` and `.` unless an attribute says otherwise):
`view:*` matches `view:public`, neither `view` nor `view:a:b`; `view:**` matches both `view:public`
and `view:a:b`. The common shapes (a literal, `prefix*`, `prefix**`) are matched by string methods;
the rest runs in RE2, whose time is linear in the input whatever the pattern.
"""

from collections.abc import Callable, Iterable
from typing import Final

import re2  # type: ignore[import-untyped]  # google-re2 ships no types

Matcher = Callable[[str], bool]

REGEX_LIMIT: Final = 512
"""Characters of a regular expression or glob: enough for real names, bounded to compile."""

_REGEX_MEMORY: Final = 1 << 20  # bytes of one compiled program; RE2's own default is 8 MiB


def compile_regex(pattern: str) -> Matcher:
    """Compile a full-match test.

    Raises:
        ValueError: longer than 512 characters, or not RE2 syntax.
    """
    if len(pattern) > REGEX_LIMIT:
        raise ValueError(f"is longer than {REGEX_LIMIT} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _REGEX_MEMORY
    try:
        fullmatch = re2.compile(pattern, options).fullmatch
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"is not an RE2 expression: {_reason(error)}") from error
    return lambda text: fullmatch(text) is not None


def _reason(error: Exception) -> str:
    first = error.args[0] if error.args else error
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)


def is_literal(pattern: str) -> bool:
    """Whether a glob matches exactly one string."""
    return "*" not in pattern


def compile_glob(pattern: str, delimiters: str) -> Matcher:
    """Compile one glob.

    Raises:
        ValueError: empty, longer than 512 characters, or `***`.
    """
    if not pattern:
        raise ValueError("is empty and would match nothing")
    if len(pattern) > REGEX_LIMIT:
        raise ValueError(f"is longer than {REGEX_LIMIT} characters")
    if "***" in pattern:
        raise ValueError("has three asterisks in a row; write * or **")
    if is_literal(pattern):
        return pattern.__eq__
    head, _, rest = pattern.partition("*")
    if rest == "*":
        return lambda text: text.startswith(head)
    if not rest:
        return _prefix_of_one_segment(head, delimiters)
    inside = f"[^{re2.escape(delimiters)}]*" if delimiters else "(?s:.)*"
    pieces = [
        inside.join(re2.escape(part) for part in piece.split("*")) for piece in pattern.split("**")
    ]
    return compile_regex_unbounded("(?s:.)*".join(pieces))


def compile_regex_unbounded(pattern: str) -> Matcher:
    """Compile an expression this module wrote itself: escapes may outgrow the users' limit."""
    fullmatch = re2.compile(pattern).fullmatch
    return lambda text: fullmatch(text) is not None


def _prefix_of_one_segment(head: str, delimiters: str) -> Matcher:
    length = len(head)
    stops = frozenset(delimiters)
    return lambda text: text.startswith(head) and stops.isdisjoint(text[length:])


def compile_globs(patterns: Iterable[str], delimiters: str) -> Matcher:
    """Compile "any of these globs"; literals share one set look-up."""
    literals = frozenset(p for p in patterns if is_literal(p))
    matchers = tuple(compile_glob(p, delimiters) for p in patterns if not is_literal(p))
    if not matchers:
        return literals.__contains__
    if not literals and len(matchers) == 1:
        return matchers[0]
    return lambda text: text in literals or any(matches(text) for matches in matchers)
