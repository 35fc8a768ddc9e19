"""What Llama Guard is asked and how it answers, as published for Llama Guard 3.

Sources: https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3/, the model cards in
github.com/meta-llama/PurpleLlama, and `prompt_format_utils.py` in github.com/meta-llama/llama-recipes. The model was
trained on exactly these words, "according our" included.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from worker.providers.safety_content import Content

# As the prompt has them; the model cards call S3, S4 and S11 a little differently.
CATEGORIES = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex Crimes",
    "S4": "Child Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}

USER, AGENT = "User", "Agent"

_PROMPT = """\
Task: Check if there is unsafe content in '{speaker}' messages in conversations according our safety policy with the \
below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
{categories}
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

{conversation}

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST {speaker} message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories."""

# The cards of the 1B and the 11B model have no S14.
_WITHOUT_S14 = re.compile(r"guard-?3\W*(1b|11b)", re.IGNORECASE)
# What would end the conversation or the prompt, or give a piece of a message to somebody else.
_FRAME = re.compile(
    r"<(?=(?:BEGIN|END) (?:CONVERSATION|UNSAFE CONTENT CATEGORIES)>|\|\w+\|>)|^(?=(?:User|Agent):)", re.MULTILINE
)
_CODES = re.compile(r"\s*S\d{1,2}(\s*,\s*S\d{1,2})*\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one of the two said before the other one did again."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the model found. `codes` are the categories that it named, and may be none."""

    unsafe: bool
    codes: tuple[str, ...] = ()


def conversation(contents: Sequence[Content]) -> list[Said]:
    """The messages as a conversation of user and agent, by turns. What the operator told the model is left out.

    The results of tools are the user's, as input of the model. Messages that follow each other are one: the model
    judges the last one only, and each of them is new. Lines that imitate the prompt's own are quoted.
    """
    said: list[Said] = []
    for content in contents:
        if content.role == "system":
            continue
        speaker = AGENT if content.role == "assistant" else USER
        text = _FRAME.sub("> ", content.text)
        if said and said[-1].speaker == speaker:
            said[-1] = Said(speaker=speaker, text=f"{said[-1].text}\n\n{text}")
        else:
            said.append(Said(speaker=speaker, text=text))
    return said


def prompt(said: Sequence[Said], *, model: str, excluded: Collection[str]) -> str:
    """The question whether what was said last is safe."""
    without = {*excluded, "S14"} if _WITHOUT_S14.search(model) else excluded
    return _PROMPT.format(
        speaker=said[-1].speaker,
        categories="\n".join(f"{code}: {name}." for code, name in CATEGORIES.items() if code not in without),
        conversation="\n\n".join(f"{one.speaker}: {one.text}" for one in said),
    )


def parse_verdict(answer: str) -> Verdict | None:
    """The verdict, or None where the answer is none.

    An `unsafe` without readable categories is one: whoever lets errors pass must not let that pass.
    """
    first, *others = answer.strip().splitlines() or [""]
    if first.strip() == "unsafe":
        named = others[0] if others else ""
        codes = re.findall(r"S\d{1,2}", named) if _CODES.fullmatch(named) else []
        return Verdict(unsafe=True, codes=tuple(dict.fromkeys(codes)))
    return Verdict(unsafe=False) if answer.strip() == "safe" else None
