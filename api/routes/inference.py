"""Direct inference: one reply of a model, outside of any turn."""

from flask import Response

from api.answers import answer
from api.direct_stream import streamed
from api.registering import refuse_unserved
from api.routing import Routes, Streamed, services, tenant
from shared.errors import InvalidRequest
from shared.events import Json
from shared.types import direct
from shared.types.content import TextItem

routes = Routes("inference", about="A model by itself, through the same routing, limits and errors as turns.")

_PROBLEMS = (413, 415, 422, 500, 502, 503)


@routes.on(
    "POST",
    "/v1/inference/chat-completion",
    answers={200: Streamed(direct.ChatCompletionAnswer, "The reply, or its pieces.")},
    problems=_PROBLEMS,
)
def chat_completion(body: direct.ChatCompletion) -> Response:
    """Ask for one reply in a conversation. `stream: true`: server-sent events of its pieces."""
    refuse_unserved(logprobs=body.logprobs)
    _refuse_too_many(len(body.messages))
    services().served.look(tenant(), lambda registry: registry.require_llm(body.model_id, param="model_id"))
    tools = [_tool(tool) for tool in body.tools]
    choice = body.tool_config.tool_choice or body.tool_choice or "auto"
    _refuse_unknown_tool(choice, [tool["name"] for tool in tools])
    payload = {
        "tenant": tenant(),
        "model_id": body.model_id,
        "messages": [message.model_dump(exclude_none=True) for message in body.messages],
        "tools": tools,
        "tool_choice": choice,
        "sampling_params": body.sampling_params.model_dump(),
        "response_format": None if body.response_format is None else body.response_format.model_dump(),
    }
    if body.stream:
        return streamed(services().calls, "chat_completion_stream", payload)
    return answer(services().calls.call("chat_completion", payload))


@routes.on(
    "POST",
    "/v1/inference/completion",
    answers={200: Streamed(direct.CompletionAnswer, "The text, or its pieces.")},
    problems=_PROBLEMS,
)
def completion(body: direct.Completion) -> Response:
    """Have a model go on with a text. `stream: true`: server-sent events of its pieces."""
    refuse_unserved(logprobs=body.logprobs)
    services().served.look(tenant(), lambda registry: registry.require_llm(body.model_id, param="model_id"))
    payload = {
        "tenant": tenant(),
        "model_id": body.model_id,
        **body.model_dump(include={"content", "sampling_params", "response_format"}),
    }
    if body.stream:
        return streamed(services().calls, "completion_stream", payload)
    return answer(services().calls.call("completion", payload))


@routes.on("POST", "/v1/inference/embeddings", answers={200: direct.EmbeddingsAnswer}, problems=_PROBLEMS)
def embeddings(body: direct.Embeddings) -> Response:
    """Ask for the embeddings of texts."""
    refuse_unserved(task_type=body.task_type, text_truncation=body.text_truncation)
    services().served.look(
        tenant(), lambda registry: registry.require_model(body.model_id, "embedding", param="model_id")
    )
    payload = {
        "tenant": tenant(),
        "model_id": body.model_id,
        "texts": [_embedded_text(index, content) for index, content in enumerate(body.contents)],
        "output_dimension": body.output_dimension,
    }
    return answer(services().calls.call("embeddings", payload))


def _embedded_text(index: int, content: object) -> str:
    if isinstance(content, TextItem):
        return content.text
    if isinstance(content, str):
        return content
    problem = "This release has embeddings of texts only."
    raise InvalidRequest(problem, param=f"contents.{index}", code="not_supported")


def _refuse_too_many(count: int) -> None:
    most = services().limits.messages
    if count > most:
        raise InvalidRequest(
            f"A request takes at most {most} messages, and these are {count}. Send fewer, or raise limits.messages in"
            " the run config.",
            param="messages",
            code="too_many_messages",
        )


def _refuse_unknown_tool(choice: str, names: list[str]) -> None:
    if choice not in ("auto", "required", "none", *names):
        raise InvalidRequest(
            f"There is no tool '{choice}'. tool_choice is auto, required, none or one of tools.",
            param="tool_choice",
            code="unknown_tool",
        )


def _tool(tool: direct.ToolDefinition) -> Json:
    """A definition as providers take it."""
    return {
        "name": tool.tool_name,
        "description": tool.description,
        "parameters": [
            {
                "name": name,
                "parameter_type": parameter.param_type,
                "description": parameter.description,
                "required": parameter.required,
                **({} if parameter.default is None else {"default": parameter.default}),
            }
            for name, parameter in tool.parameters.items()
        ],
    }
