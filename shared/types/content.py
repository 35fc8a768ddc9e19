"""What messages hold: texts and images."""

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from shared.types.base import Items, Wire
from shared.types.files import FileId

SCHEMES = ("http://", "https://", "data:")


class URL(Wire):
    """Where something lies."""

    uri: Annotated[str, Field(min_length=1, description="An address: http://, https:// or data:.")]


class Image(Wire):
    """An image, by its address or as data: exactly one of the two."""

    url: URL | None = None
    data: Annotated[str | None, Field(description="The image's bytes in base64.")] = None

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: URL | None) -> URL | None:
        if value is not None and not value.uri.lower().startswith(SCHEMES):
            raise ValueError("an image's address begins with http://, https:// or data:")
        return value

    @field_validator("data")
    @classmethod
    def _is_base64(cls, value: str | None) -> str | None:
        try:
            b64decode(value or "", validate=True)
        except (Base64Error, ValueError):
            raise ValueError("is not base64") from None
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("give either url or data")
        return self


class TextItem(Wire):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageItem(Wire):
    """An image."""

    type: Literal["image"]
    image: Image


class FileRef(Wire):
    """A file that was uploaded."""

    file_id: FileId


def _shape(value: Any) -> str | None:
    """Which of a content's shapes a value has, so that errors speak of that one alone."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "items"
    if isinstance(value, URL) or (isinstance(value, dict) and "uri" in value and "type" not in value):
        return "url"
    if isinstance(value, FileRef) or (isinstance(value, dict) and "file_id" in value and "type" not in value):
        return "file"
    return "item" if isinstance(value, dict | BaseModel) else None


Item = Annotated[TextItem | ImageItem, Field(discriminator="type")]

Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[Item, Tag("item")] | Annotated[Items[Item], Tag("items")],
    Discriminator(
        _shape,
        custom_error_type="content",
        custom_error_message="should be a text, an item such as {type: text, text: …}, or a list of items",
    ),
]

DocumentContent = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Item, Tag("item")]
    | Annotated[Items[Item], Tag("items")]
    | Annotated[URL, Tag("url")]
    | Annotated[FileRef, Tag("file")],
    Discriminator(
        _shape,
        custom_error_type="content",
        custom_error_message="should be a text, an item such as {type: text, text: …}, a list of items, {uri: …} or"
        " {file_id: …}",
    ),
]
