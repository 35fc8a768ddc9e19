"""What gunicorn serves: `api.wsgi:app`."""

import os

from api.app import create_app
from api.services import build_services
from shared.runconfig import load_front
from shared.settings import Settings

_settings = Settings.from_env()
_services = build_services(_settings, load_front(_settings.config_path, os.environ))
_services.hints.warm()
app = create_app(_services)
