"""Requests to a server that holds a model: JSON over HTTP, repeated where it may help, with the key kept to itself."""

import http.client
import json
import os
import random
import re
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from edlm.rules import check, check_least, shown

API_KEY = "EDLM_API_KEY"
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0  # seconds between two attempts
_CHUNK = 1 << 16  # bytes
_CHANCE = random.SystemRandom()  # leaves the seeded streams alone


class ServerError(OSError):
    """A server did not answer, or not as its protocol says."""


class _NoRedirect(HTTPRedirectHandler):
    """A key is for the server that was named, not for one that it names."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Server:
    """A server of models.

    Args:
        url: ``http(s)://host[:port][/path]``, without user, password or query.
        api_key: Sent as a bearer token; by default that of the environment variable ``EDLM_API_KEY``, if any. It is
            part of no message, and not of the object's ``repr``.
        timeout: Seconds that an answer may take.
        max_attempts: Requests in all where connections drop or time out, or the server is too busy or has an error
            (408, 425, 429, 5xx). Between two of them are 1, 2, 4, ... seconds, at most 60, or as many as the server
            asks for, and up to half less by chance.

    Raises:
        ValueError: an option breaks its rule.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, max_attempts: int = 5):
        self.url = _checked(url)
        self.timeout = check("timeout", timeout, float)
        if not timeout > 0:
            raise ValueError(f"timeout must be > 0 seconds, got {shown(timeout)}")
        self.max_attempts = check("max_attempts", max_attempts, int)
        check_least(1, max_attempts=max_attempts)
        self._key = os.environ.get(API_KEY) if api_key is None else api_key
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"an API key must be printable ASCII in one line, got {len(self._key)} others")
        self._opener = build_opener(_NoRedirect)

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a JSON object.

        Args:
            path: Below the server's url.
            content: What is sent.

        Raises:
            ServerError: names the url and what was received: after the last attempt, or at once where another one would
                receive the same.
        """
        data = json.dumps(content).encode()
        for attempt in range(1, self.max_attempts + 1):
            try:
                body = self._send(path, data)
            except HTTPError as error:
                failure, wait = self._described(error), _asked_wait(error)
                if error.code not in _AGAIN:
                    raise self.error(path, failure) from None
            except (OSError, http.client.HTTPException) as error:
                reason = error.reason if isinstance(error, URLError) else error
                failure, wait = f"{type(reason).__name__}: {reason}".removesuffix(": "), None
            else:
                return self._object(path, body)
            if attempt < self.max_attempts:
                wait = 2.0 ** (attempt - 1) * _CHANCE.uniform(0.5, 1.0) if wait is None else wait
                time.sleep(min(wait, _LONGEST_WAIT))
        raise self.error(path, f"{failure}, the last of {self.max_attempts} attempts") from None

    def error(self, path: str, received: str) -> ServerError:
        """An error in one line, without the key."""
        received = " ".join(received.split())
        return ServerError(f"{self.url}/{path} must answer, got {self._redacted(received)}")

    def _send(self, path: str, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        until = time.monotonic() + self.timeout
        with self._opener.open(Request(f"{self.url}/{path}", data, headers), timeout=self.timeout) as response:
            body = bytearray()
            while chunk := response.read1(_CHUNK):
                body += chunk
                if time.monotonic() > until:  # the timeout of the connection is one for each chunk
                    raise TimeoutError(f"no whole answer within {self.timeout} s")
            whole = response.headers.get("Content-Length", "")
            if whole.isdecimal() and len(body) < int(whole):
                raise http.client.IncompleteRead(bytes(body), int(whole) - len(body))
        return bytes(body)

    def _object(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            # The key goes before the text is cut, which might leave a part of it.
            raise self.error(path, f"no JSON object but {shown(self._redacted(body.decode(errors='replace')))}")
        return answer

    def _described(self, error: HTTPError) -> str:
        try:
            body = self._redacted(error.read(_CHUNK).decode(errors="replace"))
        except (OSError, http.client.HTTPException):
            body = ""
        return f"HTTP {error.code} {error.reason} {shown(body) if body.strip() else ''}".rstrip()

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _checked(url: str) -> str:
    """The url without a slash at its end. What is refused may hold a password, so it is not shown."""
    try:
        parts = urlsplit(check("url", url, str))
        is_plain = parts.port != 0 and not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        raise ValueError("url must be an address, http(s)://host[:port][/path], got another text") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(
            "url must be http(s)://host[:port][/path] without user, password and query (a key is for api_key, or "
            f"{API_KEY}), got one of {parts.scheme or 'no scheme'!r} with other parts"
        )
    return url.rstrip("/")


def _asked_wait(error: HTTPError) -> float | None:
    """Seconds of the header ``Retry-After``; None without it, or with a date."""
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else None
