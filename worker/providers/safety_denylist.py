"""`inline::denylist`: shields that look for regular expressions.

Python's `re` backtracks: a pattern such as `(a+)+$` keeps it busy for hours over forty letters, it holds the
interpreter's lock meanwhile, and a worker is one process whose turns all wait for that lock. So the engine is RE2,
whose time grows no faster than the text, and which lets go of the lock while it searches. `regex` has a
timeout, but backtracks until then.

Linear is not yet quick: a large pattern took 2 to 12 s for a million characters where it did not fit into RE2's
cache, against 1 ms for usual ones. So searches run on threads of their own, which the greenlet waits for no longer than
`timeout_s`; a search that was given up ends with its pattern. And texts are bounded: nothing is cut off, because then a
long text would be a way around the shield.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Self

import re2
from gevent.threadpool import ThreadPool
from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from worker.providers.safety import Json, Shield, Violation
from worker.providers.safety_base import (
    STANDARD_MESSAGE,
    LimitedSafety,
    ShieldEntry,
    ShieldsConfig,
    each_once,
    not_empty,
)
from worker.providers.safety_content import contents

# More would only take processors away from the turns.
THREADS = 2

GAVE_UP = -1
NOTHING = -2


def _pattern(text: str) -> str:
    try:
        compiled = _compiled(text, case_sensitive=False)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"is no regular expression: {reason}. The syntax is RE2's, which has no look-around and no back references."
        ) from None
    if compiled.search(b"") is not None:
        raise ValueError("matches an empty text too, so it would stop everything.")
    return text


def _compiled(text: str, *, case_sensitive: bool) -> Any:
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.never_capture = True
    options.log_errors = False
    return re2.compile(text, options)


class DenylistShield(ShieldEntry):
    """Objects with `message` where one of `patterns` is found in a message.

    Patterns are RE2's (https://github.com/google/re2/wiki/Syntax), are found anywhere in a text and disregard case
    unless `case_sensitive` is set; `\\w`, `\\d` and `\\b` know ASCII only (`\\pL` is any letter).
    """

    patterns: Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], AfterValidator(not_empty)]
    message: Annotated[str, Field(min_length=1)] = STANDARD_MESSAGE
    case_sensitive: bool = False

    _compiled: list[Any] = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> Self:
        self._compiled = [_compiled(pattern, case_sensitive=self.case_sensitive) for pattern in self.patterns]
        return self

    def first_match(self, texts: Sequence[bytes], until: float) -> int:
        """The place of the first pattern that is found in one of the texts (UTF-8), or `NOTHING`.

        `GAVE_UP` where it is later than `until` (monotonic) before the last one: it runs on a thread, where an
        exception would be printed.
        """
        for place, pattern in enumerate(self._compiled):
            for text in texts:
                if time.monotonic() > until:
                    return GAVE_UP
                if pattern.search(text) is not None:
                    return place
        return NOTHING


class DenylistConfig(ShieldsConfig):
    """The shields. A conversation of more than `max_text_chars` is an error and no verdict."""

    shields: Annotated[tuple[DenylistShield, ...], AfterValidator(not_empty), AfterValidator(each_once)]
    max_text_chars: Annotated[int, Field(ge=1)] = 1_000_000


class DenylistSafety(LimitedSafety):
    """Looks at the text of all messages, whoever wrote them; images are not looked at."""

    provider_type = "inline::denylist"

    def __init__(self, *, provider_id: str, config: DenylistConfig) -> None:
        listed = [Shield(identifier=shield.shield_id, resource_id=shield.shield_id) for shield in config.shields]
        super().__init__(provider_id=provider_id, shields=listed, timeout_s=config.timeout_s)
        self._lists = {shield.shield_id: shield for shield in config.shields}
        self._max_chars = config.max_text_chars
        # Not the hub's own: name look-ups wait in that one.
        self._threads = ThreadPool(THREADS)

    def register_shield(self, shield: Shield) -> Shield:
        self._list(shield)
        return shield

    def close(self) -> None:
        self._threads.kill()

    def _look(self, shield: Shield, messages: Sequence[Json]) -> Violation | None:
        denylist = self._list(shield)
        texts = [content.text for content in contents(messages, self._unsupported)]
        if sum(map(len, texts)) > self._max_chars:
            problem = f"looks at no more than {self._max_chars} characters (`max_text_chars`), and there are more."
            raise self._error("shield_text_too_long", problem)
        until = time.monotonic() + self._timeout_s
        encoded = [text.encode("utf-8", "replace") for text in texts]
        place = self._threads.spawn(denylist.first_match, encoded, until).get()
        if place == GAVE_UP:
            raise self._too_slow(shield)
        if place == NOTHING:
            return None
        return Violation(user_message=denylist.message, metadata={"violation_type": "denylist", "pattern": place})

    def _list(self, shield: Shield) -> DenylistShield:
        found = self._lists.get(shield.resource_id)
        if found is None:
            known = ", ".join(self._lists)
            problem = f"has no shield '{shield.resource_id}'. Its config has: {known}."
            raise self._error("shield_not_found", problem)
        return found
