"""What gunicorn serves: `api.wsgi:app`."""

import os

from api.app import create_app
from api.services import build_services
from shared import logs
from shared.runconfig import load_front
from shared.runconfig.secrets import secret_values
from shared.settings import Settings

_settings = Settings.from_env()
_front = load_front(_settings.config_path, os.environ)
logs.conceal(secret_values([_front.model_dump(), _settings.redis_url, _settings.broker_url]))
_services = build_services(_settings, _front)
_services.hints.warm()
app = create_app(_services)
