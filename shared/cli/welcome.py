"""What the terminal says to a person: what was found, and what to try."""

from pathlib import Path

from shared.cli.health import base_url, get
from shared.runconfig import RunConfig
from shared.settings import Settings

FALLBACK_MODEL = "scripted"


def findings(settings: Settings, config: RunConfig, *, store: str, data_dir: Path) -> str:
    """What the stack is going to run with."""
    instances = [f"{one.provider_id} ({one.provider_type})" for _, _, one in config.providers.instances()]
    file = settings.config_path or "none (no turnstone.yaml here), so the scripted model and what your keys allow"
    lines = {
        "config": str(file),
        "providers": ", ".join(instances) or "none: no model will be served",
        "store": store,
        "data": str(data_dir),
    }
    return "\n".join(f"{name + ':':<10} {text}" for name, text in lines.items())


def a_model(settings: Settings, *, api_key: str | None) -> str:
    """A model that is served, for the commands to try."""
    status, body = get(settings, "/v1/models", api_key=api_key)
    models = body.get("data") if status == 200 and isinstance(body, dict) else None
    return str(models[0].get("identifier", FALLBACK_MODEL)) if models else FALLBACK_MODEL


def try_this(settings: Settings, *, model: str, locked: bool) -> str:
    """Shell commands that take a new user from nothing to a streamed turn. `locked`: they need a key."""
    set_key = "\n  export TURNSTONE_API_KEY=...   # one of api_keys in the run config" if locked else ""
    key = ' -H "Authorization: Bearer $TURNSTONE_API_KEY"' if locked else ""
    return f"""{set_key}
  api={base_url(settings)}/v1
  post() {{ curl -sN -H 'Content-Type: application/json'{key} "$api/$1" -d "$2"; }}
  field() {{ python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }}
  agent=$(post agents '{{"agent_config": {{"model": "{model}", "instructions": "Be brief."}}}}' | field agent_id)
  session=$(post agents/$agent/session '{{"session_name": "first"}}' | field session_id)
  turn='{{"messages": [{{"role": "user", "content": "Hello"}}], "stream": true}}'
  post agents/$agent/session/$session/turn "$turn"
"""
