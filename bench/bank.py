"""Fills a memory bank directly through its provider: `python -m bench.bank FILE BANK CHUNKS`.

For rows that measure searching alone: nothing is embedded, and no job tells how far it is.
"""

import sys

from bench.load.words import DIMENSIONS, Vectors, Words
from worker.providers.memory import Bank, BankKind, Chunk, Document
from worker.providers.memory_sqlite import SqliteMemory, SqliteMemoryConfig

EMBEDDING_MODEL = "bench-embedding"
CHUNK_WORDS = 100
_BATCH = 500


def main() -> None:
    path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    bank = Bank(
        identifier=name,
        resource_id=name,
        kind=BankKind.VECTOR,
        embedding_model=EMBEDDING_MODEL,
        embedding_dimension=DIMENSIONS,
    )
    provider = SqliteMemory(provider_id="bench", config=SqliteMemoryConfig(path=path))
    provider.register_memory_bank(bank)
    writer, words, vectors = provider.begin(bank), Words(seed=1), Vectors()
    for start in range(0, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        provider.put(bank, [_document(number, words, vectors) for number in numbers], writer=writer)
    provider.close()


def _document(number: int, words: Words, vectors: Vectors) -> Document:
    chunk = Chunk(content=words.text(CHUNK_WORDS), token_count=CHUNK_WORDS, embedding=vectors[number])
    return Document(document_id=f"document-{number}", chunks=[chunk])


if __name__ == "__main__":
    main()
