"""Logging, configured once: structured events to stderr, as JSON or for people.

Event texts are constant and lower case; everything variable goes into fields (`names.py`). Loggers
of the standard library (grpc, asyncio, redis) end in the same stream and the same format.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


class LogFormat(StrEnum):
    """How entries are written."""

    CONSOLE = "console"
    """For people: aligned, coloured if stderr is a terminal."""
    JSON = "json"
    """One JSON object per line."""


def _no_fields() -> Mapping[str, str]:
    return {}


def configure_logging(
    *,
    log_format: LogFormat = LogFormat.CONSOLE,
    level: str = "INFO",
    stream: TextIO | None = None,
    call_fields: Callable[[], Mapping[str, str]] = _no_fields,
) -> None:
    """Send all logging of this process to one stream. Calling it again replaces the setup.

    Args:
        log_format: How entries are written.
        level: Least severe level that is written: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        stream: Where to; default is the process' stderr.
        call_fields: Fields of the call that is being answered, asked for each entry. Fields that
            the entry sets itself win.

    Raises:
        ValueError: `level` is none of the five.
    """
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        _CallFields(call_fields),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a second configuration must reach existing loggers
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # `extra=` of the standard library is how most of our modules pass fields.
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format, target),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _renderers(log_format: LogFormat, target: TextIO) -> list[Processor]:
    """Return what writes an entry. Tracebacks never show local variables: they hold secrets."""
    if log_format is LogFormat.JSON:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(sort_keys=True),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


class _CallFields:
    """Adds the fields of the current call to an entry."""

    def __init__(self, fields: Callable[[], Mapping[str, str]]) -> None:
        self._fields = fields

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        for field, value in self._fields().items():
            event.setdefault(field, value)
        return event
