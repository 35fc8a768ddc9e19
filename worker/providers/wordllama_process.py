"""The child behind `worker.providers.wordllama`: embeds texts, within limits of its own.

Speaks as `worker.piped_child` says. A request's bytes are a JSON list of texts; an answer's are a vector for each, in
32-bit floats of this machine, one after the other. `fault` names an error that nobody had in mind.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from worker.confined import confine

Json = dict[str, Any]
Embed = Callable[[Sequence[str], int], bytes]

# The weights, the libraries, and a batch of the largest size: 500 MB were seen at most.
MAX_MEMORY_BYTES = 2 * 1_073_741_824
# Threads would take cores from turns, a pool of each for every worker process. A child is as fast with one.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def load() -> Embed:
    """The model that lies in the package: nothing is asked of any network."""
    import numpy
    import wordllama

    # Named, as the package looks for its tokenizer in another folder than the one it brings.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

    def embed(texts: Sequence[str], dimensions: int) -> bytes:
        # The first numbers of a vector are a vector too (Matryoshka: Kusupati et al., 2022, arXiv:2205.13147).
        vectors = model.embed(list(texts), batch_size=len(texts))[:, :dimensions]
        lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
        # A text without tokens has none: all zero, not a division by it.
        unit = numpy.divide(vectors, lengths, out=numpy.zeros_like(vectors), where=lengths > 0)
        return numpy.ascontiguousarray(unit, dtype=numpy.float32).tobytes()

    return embed


def serve(requests: IO[bytes], output: IO[bytes], embed: Embed) -> None:
    """Answers requests until there are no more."""
    _say(output, b"ready\n")
    while line := requests.readline():
        request: Json = json.loads(line)
        body = requests.read(request["size"])
        if len(body) < request["size"]:
            return
        _say(output, b"begun\n")
        try:
            vectors = embed(json.loads(body), request["dimensions"])
            answer: Json = {"size": len(vectors)}
        except Exception as error:  # of the library; its message may hold the text
            vectors, answer = b"", {"fault": type(error).__name__}
        _say(output, json.dumps(answer).encode() + b"\n" + vectors)


def _say(output: IO[bytes], words: bytes) -> None:
    output.write(words)
    output.flush()


def main() -> None:
    embed = load()
    confine(max_memory_bytes=MAX_MEMORY_BYTES, parent=json.loads(sys.argv[1])["parent"])
    # What libraries say may hold what a text says.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no answer
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, output, embed)
    os._exit(0)


if __name__ == "__main__":
    main()
