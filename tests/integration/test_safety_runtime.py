"""Shields where they really run: under gevent, beside other turns, and never longer than they may."""

import subprocess
import sys

from fake_moderation import FakeModeration
from fake_upstream import FakeUpstream, Stream, text

PRELUDE = """
from gevent import monkey
monkey.patch_all()
import random
import sys
import gevent
from shared.errors import ProviderError
from worker.providers.safety import Shield

def looked(provider, text, shield=Shield(identifier="s", resource_id="s")):
    try:
        return provider.run_shield(shield, [{"role": "user", "content": text}])
    except ProviderError as error:
        return error.code
"""

DENYLIST = """
from worker.providers.safety_denylist import DenylistConfig, DenylistSafety

config = {"shields": [{"shield_id": "s", "patterns": ["[ab]*a[ab]{500}[^ab]"]}], "timeout_s": 60}
provider = DenylistSafety(provider_id="deny", config=DenylistConfig.model_validate(config))
search = gevent.spawn(looked, provider, "".join(random.choices("ab", k=200_000)))
turns = 0
while not search.ready():
    gevent.sleep(0)
    turns += 1
assert search.value is None, search.value
assert turns > 50, turns
print("fine")
"""

GUARD = """
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig
from worker.providers.safety_llama_guard import LlamaGuardConfig, LlamaGuardSafety

gpu = OpenAIInference(provider_id="gpu", config=OpenAIConfig(url=sys.argv[1]))
config = LlamaGuardConfig(timeout_s=3)
provider = LlamaGuardSafety(provider_id="guard", config=config, chat=gpu.chat, serves=bool)
looks = [gevent.spawn(looked, provider, "hang" if number == 0 else "hello") for number in range(50)]
gevent.joinall(looks)
assert looks[0].value == "shield_timeout", looks[0].value
assert [look.value for look in looks[1:]] == [None] * 49
killed = gevent.spawn(looked, provider, "hang")
gevent.sleep(0.1)
killed.kill()
print("fine")
"""

MODERATION = """
from worker.providers.safety_openai_moderation import ModerationConfig, ModerationSafety

config = ModerationConfig(url=sys.argv[1], timeout_s=2)
provider = ModerationSafety(provider_id="mod", config=config)
assert looked(provider, "hello") is None
looks = [gevent.spawn(looked, provider, text) for text in ("drip", "silent", "hello")]
gevent.joinall(looks)
assert [look.value for look in looks] == ["shield_timeout", "shield_timeout", None], looks
print("fine")
"""


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, "-c", PRELUDE + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "fine\n", done.stderr
    assert done.stderr == ""


def test_other_turns_go_on_while_a_denylist_searches() -> None:
    run(DENYLIST)


def test_a_guard_model_that_hangs_holds_up_its_own_shield_only_and_is_let_go() -> None:
    with FakeUpstream() as upstream:
        upstream.default = lambda request: (
            text("un", end="hang") if "\nUser: hang" in request.json["messages"][0]["content"] else text("safe")
        )
        run(GUARD, upstream.url)
        upstream.wait_for(lambda: upstream.hangups >= 2)


def test_a_server_that_drips_or_says_nothing_does_not_outlast_the_shield() -> None:
    with FakeModeration() as upstream:
        by_word = upstream.moderate
        # A sign of life every 100 ms: each wait by itself is short.
        drip = Stream(pieces=[b" "] * 1_000, between_s=0.1, content_type="application/json")
        silent = Stream(pieces=[], hang_before_head=True)
        upstream.moderate = lambda request: {"drip": drip, "silent": silent}.get(
            request.json["input"][0], by_word(request)
        )
        run(MODERATION, upstream.url)
        upstream.wait_for(lambda: upstream.hangups >= 2)
