"""Keeps secrets out of what is said: the second line of defence, since no look says one of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus, urlsplit

from arbitrageai_native import defaults, environment
from arbitrageai_native._safe_text import without_secrets

from .finding import Finding

_NO_SECRETS: Final = (defaults.CLOUD_API_KEY, defaults.LOCAL_API_KEY)
# A shorter one would be found within every other word.
_SHORTEST: Final = 4
_IN_PARAMETERS: Final = re.compile(r"[?&](?:password|api_key|key)=([^&#]*)")


def _in_url(url: str) -> Iterator[str]:
    """Yield the passwords of a URL, and the pieces into which a wrong parser may split a password."""
    yield from _IN_PARAMETERS.findall(url)
    rest = url.partition("://")[2]
    for credentials in (rest.partition("@")[0], rest.rpartition("@")[0]) if "@" in rest else ():
        password = credentials.partition(":")[2]
        yield password
        yield from re.split(r"[/?#:@&]", password)


class Secrets:
    """Texts that nobody may read."""

    def __init__(self, texts: Iterable[str]) -> None:
        wanted = {text for text in texts if len(text) >= _SHORTEST and text not in _NO_SECRETS}
        # A secret may be part of another.
        self._texts = sorted(wanted, key=len, reverse=True)

    @classmethod
    def of_the_environment(cls, *urls: str | None) -> Secrets:
        """Keys and passwords of the environment, and those in further URLs."""
        texts = environment.secret_keys()
        for url in (*environment.urls_with_secrets(), *urls):
            found = list(_in_url(url or ""))
            texts += [*found, *map(unquote, found), *map(unquote_plus, found)]
        return cls(texts)

    def hide(self, finding: Finding) -> Finding:
        """The finding without them."""
        return finding._replace(detail=self._hidden(finding.detail), fix=self._hidden(finding.fix))

    def _hidden(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, "***")
        return text


def shown_url(url: str) -> str:
    """A URL without user, password and parameters."""
    shown = without_secrets(url)
    try:
        parts = urlsplit(shown)
    except ValueError:
        return "a URL that can't be read"
    return shown if parts.scheme and parts.netloc else "a URL that can't be read"
