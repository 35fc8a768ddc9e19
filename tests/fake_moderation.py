"""OpenAI's moderations on a real socket: `FakeUpstream`, which also answers `POST /v1/moderations`."""

from collections import deque
from collections.abc import Callable
from typing import Any

from fake_upstream import Failure, FakeUpstream, Reply, Request

Json = dict[str, Any]


def result(**categories: bool) -> Json:
    """One result; flagged where one of its categories is."""
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": {name: float(found) for name, found in categories.items()},
    }


def moderation(*results: Json) -> Failure:
    """A 200 with these results."""
    return Failure(status=200, body={"id": "modr-1", "model": "omni-moderation-latest", "results": list(results)})


def by_word(word: str) -> Callable[[Request], Reply]:
    """Flags as violence what holds `word`: a text, or the address of an image."""

    def answer(request: Request) -> Reply:
        return moderation(
            *(result(harassment=False, violence=word in str(asked)) for asked in request.json["input"]),
        )

    return answer


class FakeModeration(FakeUpstream):
    """The server. Replies given to `expect` are used up in order, then `moderate` answers."""

    def __init__(self, *, word: str = "attack") -> None:
        super().__init__()
        self.moderate: Callable[[Request], Reply] = by_word(word)
        self._expected: deque[Reply] = deque()

    def expect(self, *replies: Reply) -> None:
        """Answer the next moderations with `replies`, one each."""
        self._expected.extend(replies)

    def _choose(self, request: Request) -> Reply:
        if not request.path.endswith("/moderations"):
            return super()._choose(request)
        return self._expected.popleft() if self._expected else self.moderate(request)
