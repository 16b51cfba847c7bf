"""Where the keys of an issuer come from: a URL, the issuer's own description, or a file."""

import asyncio
import http.client
import json
import time
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit

from controlplane.credentials.files import CredentialFileError, FileWatch, read_public
from controlplane.credentials.jwks import KeySource, KeysUnavailable
from controlplane.security_settings import is_loopback, is_safe_url

FETCH_SECONDS: Final = 5.0
"""How long an issuer may be silent while it answers."""

FETCH_TOTAL_SECONDS: Final = 20.0
"""How long one look for the keys may take altogether."""

MAX_ANSWER_BYTES: Final = 256 * 1024
"""Longest answer that is read; a key takes about 1 KiB."""

_DESCRIPTION: Final = "/.well-known/openid-configuration"


def key_source(issuer: str, jwks: str) -> KeySource:
    """Return the source of an issuer's keys.

    Args:
        issuer: The issuer, exactly as in its tokens.
        jwks: URL or file of the keys; empty for what the issuer's description says.

    Raises:
        ValueError: a URL could be listened in on.
    """
    if not jwks:
        return _DescribedKeys(issuer)
    return _UrlKeys(jwks) if "://" in jwks else _FileKeys(Path(jwks))


def check_url(url: str) -> str:
    """Return a URL whose answers nobody on the way can forge.

    Raises:
        ValueError: it is not https, or http to this machine.
    """
    if not is_safe_url(url):
        raise ValueError(f"{url!r} must be an https URL; http is for loopback only")
    return url


class _FileKeys:
    """A file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = FileWatch(path)

    @property
    def where(self) -> str:
        """The path."""
        return str(self._path)

    async def fetch(self) -> bytes:
        """Return what the file holds."""
        try:
            return await asyncio.to_thread(read_public, self._path)
        except CredentialFileError as error:
            raise KeysUnavailable(str(error)) from None

    def changed(self) -> bool:
        """Return whether the file is another one."""
        return self._watch.changed()


class _UrlKeys:
    """A URL."""

    def __init__(self, url: str) -> None:
        self._url = check_url(url)

    @property
    def where(self) -> str:
        """The URL."""
        return self._url

    async def fetch(self) -> bytes:
        """Return what is at the URL."""
        return await _within_time(_get, self._url)

    def changed(self) -> bool:
        """Return False: a URL does not tell."""
        return False


class _DescribedKeys:
    """The URL that the issuer's description names, which is asked for each time."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._url = check_url(issuer.rstrip("/") + _DESCRIPTION)

    @property
    def where(self) -> str:
        """The URL of the description."""
        return self._url

    async def fetch(self) -> bytes:
        """Return what the issuer's description leads to."""
        return await _within_time(self._fetch)

    def changed(self) -> bool:
        """Return False: a URL does not tell."""
        return False

    def _fetch(self) -> bytes:
        try:
            described = json.loads(_get(self._url))
            issuer, url = described["issuer"], described["jwks_uri"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise KeysUnavailable("the issuer's description names no issuer and jwks_uri") from None
        if issuer != self._issuer:
            raise KeysUnavailable("the issuer's description is that of another issuer")
        try:
            return _get(check_url(str(url)))
        except ValueError as error:
            raise KeysUnavailable(f"jwks_uri {error}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent elsewhere: the URL that was configured is the one that is trusted."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Follow nothing; the redirect is then an error."""


def _get(url: str) -> bytes:
    """Return the answer at a URL; blocks.

    Raises:
        KeysUnavailable: there is none, or it is too long.
    """
    is_here = is_loopback(urlsplit(url).hostname or "")
    opener = urllib.request.build_opener(
        _NoRedirects, *((urllib.request.ProxyHandler({}),) if is_here else ())
    )
    deadline = time.monotonic() + FETCH_TOTAL_SECONDS
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - see check_url
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as answer:
            content = _read(answer, deadline)
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        raise KeysUnavailable(f"{url}: {error}") from None
    if len(content) > MAX_ANSWER_BYTES:
        raise KeysUnavailable(f"{url}: the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return content


def _read(answer: Any, deadline: float) -> bytes:
    """Return an answer, or its beginning if it is too long.

    Raises:
        TimeoutError: it comes drop by drop. Nobody waits for it any more, and its thread is needed.
    """
    content = b""
    while len(content) <= MAX_ANSWER_BYTES:
        part = answer.read1(MAX_ANSWER_BYTES + 1 - len(content))
        if not part:
            break
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
    return content


async def _within_time(fetch: Any, *arguments: Any) -> bytes:
    """Run what blocks in a thread, and wait for it only so long."""
    try:
        async with asyncio.timeout(FETCH_TOTAL_SECONDS):
            content: bytes = await asyncio.to_thread(fetch, *arguments)
    except TimeoutError:
        raise KeysUnavailable(f"no answer within {FETCH_TOTAL_SECONDS:g} s") from None
    return content
