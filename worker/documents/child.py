"""The child behind `worker.documents.reader`: reads documents, one after the other, within limits of its own.

Started with its limits and its parent's process id, in JSON. It says `ready`. Then for each request, a line of JSON
(`size`, `mime_type`, `name`) and the document, it says `begun`, and answers with a line of JSON and the text: `size`,
or `code` and `message` of what went wrong; `fault`, the type of an error that nobody had in mind; `spent`, if it
wants to be replaced. It ends with its input, with its parent, and when a document takes too long.
"""

import json
import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import IO, Any

from worker.confined import confine
from worker.documents.errors import UnreadableDocument
from worker.documents.limits import ReadingLimits
from worker.documents.reading import load_libraries, read_text

Json = dict[str, Any]

# The parent ends it in time; this is for a parent that is not there any more, or does not get to it.
GRACE_S = 5.0


class Server:
    """Answers requests until there are no more."""

    def __init__(self, requests: IO[bytes], output: IO[bytes], limits: ReadingLimits) -> None:
        self._requests = requests
        self._output = output
        self._limits = limits

    def run(self) -> None:
        self._say(b"ready\n")
        while line := self._requests.readline():
            request = json.loads(line)
            body = self._requests.read(request["size"])
            if len(body) < request["size"]:
                return
            self._say(b"begun\n")
            signal.setitimer(signal.ITIMER_REAL, self._limits.timeout_s + GRACE_S)
            answer, text = self._answer(body, request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            # What it had may not be given back: the next document could fail for it.
            spent = _peak_bytes() > self._limits.max_memory_bytes // 2
            if spent and answer.get("code") == "malformed_document":
                answer = _too_large()  # what a parser makes of an allocation that failed
            self._say(json.dumps({**answer, "spent": spent}).encode() + b"\n" + text)

    def _answer(self, body: bytes, request: Json) -> tuple[Json, bytes]:
        try:
            text = read_text(body, mime_type=request["mime_type"], name=request["name"], limits=self._limits)
            encoded = text.encode()
        except UnreadableDocument as error:
            return {"code": error.code, "message": error.message}, b""
        except MemoryError:
            return _too_large(), b""
        except Exception as error:  # of a parser, over a document that its authors did not think of
            problem = "The document cannot be read: it is damaged, or written in an uncommon way."
            return {"code": "malformed_document", "message": problem, "fault": type(error).__name__}, b""
        return {"size": len(encoded)}, encoded

    def _say(self, words: bytes) -> None:
        self._output.write(words)
        self._output.flush()


def _too_large() -> Json:
    problem = "The document needs more memory than it may have while it is read. Split it."
    return {"code": "document_too_large", "message": problem}


def _peak_bytes() -> int:
    """The most address space that this process had; 0 where the system does not say."""
    with suppress(OSError), open("/proc/self/status") as facts:
        for fact in facts:
            if fact.startswith("VmPeak:"):
                return int(fact.split()[1]) * 1_024
    return 0


def main() -> None:
    started = json.loads(sys.argv[1])
    limits = ReadingLimits(**started["limits"])
    load_libraries()
    confine(max_memory_bytes=limits.max_memory_bytes, parent=started["parent"])
    # What libraries say may hold what the document says.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no answer
    with suppress(BrokenPipeError):
        Server(sys.stdin.buffer, output, limits).run()
    os._exit(0)


if __name__ == "__main__":
    main()
