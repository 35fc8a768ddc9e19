"""Writes a llama model of half a megabyte with random weights, for real inference servers to load.

    .real/bin/python bench/tiny_model.py model.gguf     (needs gguf and numpy)

What it says is noise made of whole words, and it never stops by itself: dimension 0 of its hidden state always
holds the same positive number, which the output layer counts against every token that is not a word.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH, HEADS, BLOCKS, INNER, CONTEXT = 64, 4, 3, 64, 4_096
SYLLABLES = ("ba", "co", "de", "fi", "go", "hu", "ja", "ke", "li", "mo", "nu", "pa", "re", "so", "ti", "vu")
WORDS = [f"{first}{second}" for first in SYLLABLES for second in SYLLABLES]
SPACE = "\u2581"  # how SentencePiece writes the space before a word
NOT_WORDS = 3 + 256  # unknown, begin, end, and every byte
STEADY, AGAINST = 3.0, -20.0
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"

Matrix = NDArray[np.float32]


def write_model(path: Path, *, seed: int = 1) -> None:
    """The same seed gives the same file."""
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer)
    _vocabulary(writer)
    for name, matrix in _weights(np.random.default_rng(seed)):
        writer.add_tensor(name, matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template(TEMPLATE)


def _vocabulary(writer: gguf.GGUFWriter) -> None:
    kind = gguf.TokenType
    special = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens = [*special, *((f"<0x{byte:02X}>", kind.BYTE) for byte in range(256))]
    tokens += [(SPACE + word, kind.NORMAL) for word in WORDS]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_token_types([token_kind for _, token_kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_vocab_size(len(tokens))


def _weights(random: np.random.Generator) -> Iterator[tuple[str, Matrix]]:
    def matrix(rows: int, columns: int, scale: float = 0.1) -> Matrix:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def into_the_stream(columns: int) -> Matrix:
        """A layer's way back into the hidden state: it leaves dimension 0 alone."""
        weights = matrix(WIDTH, columns)
        weights[0] = 0.0
        return weights

    ones = np.ones(WIDTH, np.float32)
    embedding = matrix(NOT_WORDS + len(WORDS), WIDTH, scale=1.0)
    embedding[:, 0] = STEADY
    output = matrix(NOT_WORDS + len(WORDS), WIDTH)
    output[:, 0] = 0.0
    output[:NOT_WORDS, 0] = AGAINST
    yield from (("token_embd.weight", embedding), ("output_norm.weight", ones), ("output.weight", output))
    for block in range(BLOCKS):
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{block}.{name}.weight", ones
        for name in ("attn_q", "attn_k", "attn_v"):
            yield f"blk.{block}.{name}.weight", matrix(WIDTH, WIDTH)
        yield f"blk.{block}.attn_output.weight", into_the_stream(WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            yield f"blk.{block}.{name}.weight", matrix(INNER, WIDTH)
        yield f"blk.{block}.ffn_down.weight", into_the_stream(INNER)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
