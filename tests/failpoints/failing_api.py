"""An API that dies after an accept, in place of `api.wsgi:app`. Of a gunicorn one process dies; it starts another."""

from points import plant

from api.wsgi import app

plant("after_the_accept")

__all__ = ["app"]
