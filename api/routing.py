"""Routes: what a route is called, what it takes and answers, in one place for Flask and for the OpenAPI document."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, TypeVar, cast

from flask import Response, current_app, g, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.schema import Schema
from flask_openapi3.models.tag import Tag
from flask_openapi3.utils import get_model_schema
from pydantic import BaseModel, ConfigDict
from werkzeug.datastructures import Headers

from api.bodies import is_empty, read_object
from api.forms import read_form
from api.problems import MEDIA_TYPE
from api.services import Services
from api.validation import validate
from shared.events import Json
from shared.types.base import Wire

View = TypeVar("View", bound=Callable[..., Response])

PROBLEMS = {
    400: "The request cannot be understood, or asks for what is not served.",
    401: "The run config has `api_keys`, and the request carries none of them.",
    404: "There is no such thing; `detail` names the call that lists what exists.",
    409: "It clashes with what is there. With `x-should-retry: false` it will stay so.",
    413: "The body is too large.",
    415: "The body is not of the type that is taken here: JSON in UTF-8, or a multipart form for a file.",
    422: "A field is wrong; `error.param` names it.",
    429: "As many turns wait for a worker as may: try again after `Retry-After` seconds.",
    500: "A fault of the service; its log has the details.",
    502: "The provider failed; `error.provider_id` says which one.",
    503: "Not now: try again after `Retry-After` seconds.",
    507: "As many bytes of files are kept as may: delete some.",
}
EXTENSION = "turnstone"
_SCHEMAS = "#/components/schemas"
_SERVER_SENT_EVENT: Json = {
    "type": "object",
    "description": "One event. `data` is JSON: `{event: {payload}}` with the payload's type in `event_type`.",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer in JSON or as server-sent events, as the request asks."""

    model: type[Wire]
    description: str


Answer = type[Wire] | Streamed | Json | None
"""What a status comes with: a type, one that may be streamed, a raw OpenAPI response, or no body."""


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast(Services, current_app.extensions[EXTENSION])


def tenant() -> str:
    """Whose data the current request works on."""
    return cast(str, g.tenant)


def body_as_sent() -> Json:
    """The current request's body, parsed and not yet validated."""
    return cast(Json, g.body)


class Query(Wire):
    """Base of query parameters: they come as text."""

    model_config = ConfigDict(strict=False)


class Routes(APIBlueprint):
    """A group of routes. Validates by itself: the library would take a body that is no JSON for an absent one."""

    def __init__(self, name: str, *, about: str) -> None:
        super().__init__(name, __name__, abp_tags=[Tag(name=name, description=about)])

    def on(
        self,
        method: str,
        rule: str,
        *,
        answers: Mapping[int, Answer],
        problems: Iterable[int] = (),
        endpoint: str | None = None,
    ) -> Callable[[View], View]:
        """Register a view. Its parameters `path`, `query`, `header`, `body` and `form` are validated as annotated.

        `answers` maps statuses to types (None: no body); of `problems` 400 is always one, because any request may
        hold a NUL, and 401, because any may need a key. `endpoint` is for a view that has several rules.
        """
        told = {status: self._told(answer) for status, answer in answers.items()}
        responses = {**told, **{status: problem_answer(status) for status in sorted({400, 401, *problems})}}
        register = getattr(self, method.lower())

        def decorator(view: View) -> View:
            register(rule, responses=responses, **({} if endpoint is None else {"endpoint": endpoint}))(view)
            return view

        return decorator

    def _told(self, answer: Answer) -> type[Wire] | Json | None:
        """An answer as the library takes it: it knows no type with two media types, and then learns it here."""
        if not isinstance(answer, Streamed):
            return answer
        schema = get_model_schema(answer.model, mode="serialization")
        for name, definition in (*schema.pop("$defs", {}).items(), (answer.model.__name__, schema)):
            self.components_schemas[name] = Schema(**definition)
        return {
            "description": answer.description,
            "content": {
                "application/json": {"schema": {"$ref": f"{_SCHEMAS}/{answer.model.__name__}"}},
                "text/event-stream": {"schema": _SERVER_SENT_EVENT},
            },
        }

    @staticmethod
    def create_view_func(
        func: Callable[..., Response],
        header: type[BaseModel] | None,
        cookie: type[BaseModel] | None,
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        form: type[BaseModel] | None,
        body: type[BaseModel] | None,
        raw: type[BaseModel] | None,
        view_class: Any = None,
        view_kwargs: Any = None,
        responses: Any = None,
        validate_response: bool | None = None,
    ) -> Callable[..., Response]:
        """What Flask calls: the view, with its parameters validated."""

        @wraps(func)
        def view(**values: Any) -> Response:
            given: dict[str, BaseModel] = {}
            if path is not None:
                given["path"] = path.model_construct(**values)  # any text is an id; whether it exists is seen later
            if query is not None:
                given["query"] = _validated(query, request.args)
            if header is not None:
                given["header"] = _validated(header, request.headers)
            if body is not None:
                g.body = {} if _may_be_absent(body) and is_empty() else read_object()
                given["body"] = validate(body, g.body)
            if form is not None:
                given["form"] = read_form(form, services().files.limits)
            return func(**given)

        return view


def _may_be_absent(body: type[BaseModel]) -> bool:
    """As the OpenAPI document says it: the library reads this there."""
    config = cast(Json, body.model_config)
    return not config.get("openapi_extra", {}).get("required", True)


def _validated(model: type[BaseModel], values: Mapping[str, str] | Headers) -> BaseModel:
    """What a request says of the model's fields, which may all be left out."""
    known = {name: values[name] for name in _names(model) if name in values}
    return validate(model, known) if known else _default(model)


@cache
def _names(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(info.alias or name for name, info in model.model_fields.items())


@cache
def _default(model: type[BaseModel]) -> BaseModel:
    """One for all requests that say nothing: nobody changes it."""
    return validate(model, {})


def problem_answer(status: int) -> Json:
    """A problem document in the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}/Problem"}}}
    return {"description": PROBLEMS[status], "content": content}
