"""What gunicorn serves in place of `api.wsgi:app` where the APIs are mutants."""

import os

from mutants import API_MUTANT, MODULES, change_modules

change_modules(MODULES[os.environ[API_MUTANT]])

from api.wsgi import app  # noqa: E402

__all__ = ["app"]
