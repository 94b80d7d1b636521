"""DatabaseUrl: a URL that keeps its password to itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_PASSWORD: Final = re.compile(r"^(\w+://[^:/@]*):[^/@]*@")
_SECRETS: Final = ("password", "secret")


def is_secret(parameter: str) -> bool:
    """Whether the value of a connection parameter is for nobody's eyes."""
    return any(sign in parameter for sign in _SECRETS)


class DatabaseUrl(str):
    """The text of a `postgresql://` URL without its passwords; `whole()` is the URL as it was given.

    Equal to another one only with its passwords. A pickle carries them, for another process that is to connect.
    """

    whole: Callable[[], str]

    def __new__(cls, whole: str) -> DatabaseUrl:
        url = super().__new__(cls, _without_secrets(whole))
        url.whole = lambda: whole  # what prints an object's attributes shows a function
        return url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and self.whole() == other.whole()

    def __ne__(self, other: object) -> bool:  # that of str would compare the texts
        return not self == other

    __hash__ = str.__hash__

    def __copy__(self) -> DatabaseUrl:
        return self

    def __deepcopy__(self, _: Any) -> DatabaseUrl:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return DatabaseUrl, (self.whole(),)


def _without_secrets(url: str) -> str:
    address, mark, options = _PASSWORD.sub(r"\1@", url).partition("?")
    if not mark:
        return address
    from urllib.parse import unquote

    shown = [option for option in options.split("&") if not is_secret(unquote(option.partition("=")[0]))]
    return address + (mark if shown else "") + "&".join(shown)
