"""The routes, one module per kind of resource."""

from api.routes.agents import routes as agents
from api.routes.files import routes as files
from api.routes.inference import routes as inference
from api.routes.inspect import routes as inspect
from api.routes.jobs import routes as jobs
from api.routes.memory import routes as memory
from api.routes.memory_banks import routes as memory_banks
from api.routes.models import routes as models
from api.routes.operating import routes as operating
from api.routes.providers import routes as providers
from api.routes.sessions import routes as sessions
from api.routes.shields import routes as shields
from api.routes.toolgroups import routes as toolgroups
from api.routes.turn_reads import routes as turn_reads
from api.routes.turns import routes as turns

ALL = (
    agents,
    sessions,
    turns,
    turn_reads,
    operating,
    models,
    shields,
    toolgroups,
    memory_banks,
    memory,
    jobs,
    files,
    inference,
    providers,
    inspect,
)
