"""How often this process looks for garbage in cycles."""

import gc

_YOUNG, _MIDDLE, _OLD = 20_000, 3, 10
"""CPython's defaults are 700, 10, 10: meant for programs that make a few objects a second. A room makes ten thousand
for each thousand tokens, nearly none of them in a cycle; looking for these took a tenth of its time. The middle
generation is looked at oftener, and so in pieces of a third: with a thousand new turns in it, it held all others up for
40 ms."""


def settle() -> None:
    """To be called once everything is loaded: what is there by then is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
