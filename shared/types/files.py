"""Files: what clients upload, and what tools return besides text."""

from typing import Annotated, Literal

from pydantic import Field

from shared.types.base import Items, Wire

UPLOADS = ("assistants", "user_data")
OUTPUT = "assistants_output"
PURPOSES = (*UPLOADS, OUTPUT)

UploadPurpose = Annotated[
    Literal["assistants", "user_data"], Field(description="What it is for. Both are treated alike.")
]
Purpose = Annotated[
    Literal["assistants", "user_data", "assistants_output"],
    Field(description="`assistants_output`: a tool returned it."),
]
FileId = Annotated[str, Field(pattern=r"^file_[0-9a-z]{1,64}$", description="The id of a file.")]


class File(Wire):
    """A file. Times are in seconds since 1970."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    mime_type: Annotated[str, Field(description="As it was uploaded, or `application/octet-stream`.")]
    status: Annotated[Literal["processed"], Field(description="For clients of OpenAI: a file that is there is whole.")]


class FileList(Wire):
    """Files. The ids of the first and the last one are empty where there are none."""

    object: Literal["list"]
    data: Items[File]
    first_id: str
    last_id: str
    has_more: bool


class FileDeleted(Wire):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: bool
