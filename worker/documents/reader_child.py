"""One process that reads documents, as its parent sees it."""

from dataclasses import asdict

from worker.documents.limits import ReadingLimits
from worker.piped_child import Json, PipedChild


class ReaderChild(PipedChild):
    """A parser that runs somebody else's program should find nothing of the worker's."""

    def __init__(self, limits: ReadingLimits) -> None:
        super().__init__("worker.documents.child", {"limits": asdict(limits)})
        self._limits = limits

    def read(self, body: bytes, *, mime_type: str | None, name: str | None) -> tuple[Json, str]:
        """The answer and the text. Raises ChildGone and ChildTooSlow."""
        request = {"mime_type": mime_type, "name": name}
        answer, text = self.ask(request, body, timeout_s=self._limits.timeout_s)
        return answer, text.decode()
