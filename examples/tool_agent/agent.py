"""An agent whose tools run here, in your process, with your data: the official client, a loop and two functions.

python examples/tool_agent/agent.py "How will the weather be in Paris?"
"""

import os
import sys

from llama_stack_client import Agent, AgentEventLogger, LlamaStackClient


def weather(city: str, days: int) -> str:
    """Say how the weather will be.

    :param city: where
    :param days: for how many days
    """
    return f"sunny in {city} for {days} days"


def add(x: int, y: int) -> int:
    """Add two whole numbers.

    :param x: one
    :param y: another
    """
    return x + y


def main(question: str) -> None:
    client = LlamaStackClient(
        base_url=os.environ.get("TURNSTONE_URL", "http://127.0.0.1:8321"),
        api_key=os.environ.get("TURNSTONE_API_KEY"),
    )
    agent = Agent(
        client,
        model=os.environ.get("TURNSTONE_MODEL", "scripted"),
        instructions="You are helpful. Use your tools.",
        tools=[weather, add],
    )
    session = agent.create_session("tools")
    # The turn rests while a tool runs here, and holds no worker. If this process ends, it waits: resume it later.
    turn = agent.create_turn([{"role": "user", "content": question}], session_id=session, stream=True)
    for line in AgentEventLogger().log(turn):
        line.print()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How will the weather be in Paris?")
