"""What merely reading tokens costs: httpx under gevent, its lines, JSON parsed, nothing done with them.

Prints one line of JSON: CPU seconds of this process, tokens read, seconds. Connections and imports are not counted.
"""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
import httpx  # noqa: E402
import orjson  # noqa: E402
from upstream import MODEL, Plan  # noqa: E402


def read_reply(client: httpx.Client, url: str, plan: Plan) -> int:
    """The number of tokens of one reply."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": plan.prompt()}]}
    tokens = 0
    with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = orjson.loads(line[6:])["choices"]
                tokens += bool(choices and choices[0]["delta"].get("content"))
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--replies", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--first-ms", type=float, required=True)
    parser.add_argument("--token-ms", type=float, required=True)
    options = parser.parse_args()
    plan = Plan(tokens=options.tokens, first_ms=options.first_ms, token_ms=options.token_ms)
    counts: list[int] = []
    left = iter(range(options.replies))
    limits = httpx.Limits(max_connections=options.in_flight)
    with httpx.Client(limits=limits, timeout=60, trust_env=False) as client:

        def slot() -> None:
            for _ in left:
                counts.append(read_reply(client, options.url, plan))  # noqa: PERF401 - shared by all slots

        read_reply(client, options.url, Plan(tokens=1))
        cpu, started = time.process_time(), time.perf_counter()
        gevent.joinall([gevent.spawn(slot) for _ in range(options.in_flight)], raise_error=True)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    print(json.dumps({"cpu_s": cpu, "tokens": sum(counts), "seconds": seconds}))


if __name__ == "__main__":
    main()
