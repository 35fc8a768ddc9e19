"""Reads documents in child processes, so that none can hold up or bring down the worker.

What people send is parsed by libraries that were written for documents with good intentions. In a child one that runs
for minutes, or takes all memory, costs itself; and turns do not wait while one is read.
"""

import logging
from importlib.util import find_spec

from gevent.lock import BoundedSemaphore

from shared.errors import ConfigError
from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import is_as_it_is
from worker.documents.limits import ReadingLimits
from worker.documents.reader_child import ReaderChild
from worker.documents.reading import check_size, read_text
from worker.piped_child import ChildGone, ChildTooSlow, Json

logger = logging.getLogger(__name__)

# Above this, going through a pipe costs other greenlets less than what is done with the text here.
_HERE_BYTES = 256 * 1_024
_LIBRARIES = ("chardet", "cryptography", "lxml", "pypdf")


class DocumentReader:
    """One per worker process; many greenlets use it. Children are started when they are first needed.

    Raises ConfigError where a library is missing.
    """

    def __init__(self, *, limits: ReadingLimits | None = None) -> None:
        missing = [name for name in _LIBRARIES if find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"Reading documents needs {', '.join(missing)}. Install them with pip install 'turnstone[memory]'."
            )
        self._limits = limits or ReadingLimits()
        self._places = BoundedSemaphore(self._limits.children)
        self._idle: list[ReaderChild] = []
        self._busy: set[ReaderChild] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The children's process ids, for logs and tests."""
        return [child.pid for child in (*self._busy, *self._idle)]

    def read(self, body: bytes, *, mime_type: str | None = None, name: str | None = None) -> str:
        """The text of a document; waits for its turn, then as long as it takes, within the limits.

        As `read_text`. Raises UnreadableDocument; a greenlet that is killed meanwhile ends its child.
        """
        check_size(body, self._limits)
        if len(body) <= _HERE_BYTES and is_as_it_is(body, mime_type):
            return read_text(body, mime_type=mime_type, limits=self._limits)
        with self._places:
            answer, text = self._asked(body, mime_type, name)
        if "fault" in answer:
            logger.info("a document cannot be read: %s", answer["fault"])
        if "code" in answer:
            raise UnreadableDocument(answer["code"], answer["message"])
        return text

    def close(self) -> None:
        """End the children. Whoever still waits for one gets `reader_unavailable`."""
        self._is_closed = True
        for child in self._busy:
            child.kill()
        while self._idle:
            self._idle.pop().end()

    def _asked(self, body: bytes, mime_type: str | None, name: str | None) -> tuple[Json, str]:
        # A child that ended while it had nothing to do says nothing about the document: another one may read it.
        for _ in range(2):
            child = self._taken()
            try:
                answer, text = child.read(body, mime_type=mime_type, name=name)
            except ChildGone as gone:
                code = self._drop(child)
                logger.warning("the document reader %s ended with %s", child.pid, code)
                if gone.begun and not self._is_closed:
                    raise _died() from None
            except ChildTooSlow:
                self._drop(child)
                raise self._too_slow() from None
            except BaseException:
                self._drop(child)
                raise
            else:
                self._give_back(child, is_spent=answer["spent"])
                return answer, text
        raise _unavailable()

    def _taken(self) -> ReaderChild:
        if self._is_closed:
            raise _unavailable()
        while self._idle:
            child = self._idle.pop()
            if not child.has_ended:
                break
        else:
            child = self._started()
        self._busy.add(child)
        return child

    def _started(self) -> ReaderChild:
        try:
            return ReaderChild(self._limits)
        except OSError as error:
            logger.warning("a document reader cannot be started: %s", error)
            raise _unavailable() from None

    def _give_back(self, child: ReaderChild, *, is_spent: bool) -> None:
        self._busy.discard(child)
        if is_spent or self._is_closed:
            child.end()
        else:
            self._idle.append(child)

    def _drop(self, child: ReaderChild) -> int | None:
        self._busy.discard(child)
        return child.end(now=True)

    def _too_slow(self) -> UnreadableDocument:
        problem = f"Reading the document takes longer than {self._limits.timeout_s:g} s. Split it, or send its text."
        return UnreadableDocument("document_too_slow", problem)


def _died() -> UnreadableDocument:
    problem = "The process that read the document ended over it: for want of memory, or by a fault of a parser."
    return UnreadableDocument("reader_died", f"{problem} Send its text.")


def _unavailable() -> UnreadableDocument:
    problem = "Documents cannot be read now: the process for it does not start, or is being ended. Try again later."
    return UnreadableDocument("reader_unavailable", problem, retryable=True)
