"""Documents that are files: whether they are there."""

from collections.abc import Sequence

from api.services import Services
from shared.errors import InvalidRequest
from shared.events import Json


def require_files(services: Services, tenant: str, documents: Sequence[Json]) -> None:
    """Raise InvalidRequest for a document whose file is not there. One that goes later fails that document alone."""
    named = {at: one["content"]["file_id"] for at, one in enumerate(documents) if _is_file(one.get("content"))}
    known = services.files.known(tenant, set(named.values())) if named else set()
    for at, file_id in named.items():
        if file_id not in known:
            raise InvalidRequest(
                f"There is no file '{file_id}': it has expired, was deleted, or never was. GET /v1/files lists what is"
                " there.",
                param=f"documents.{at}.content.file_id",
                code="file_not_found",
            )


def _is_file(content: object) -> bool:
    return isinstance(content, dict) and "file_id" in content
