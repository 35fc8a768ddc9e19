"""Tool groups and tools in the shapes of Llama Stack, which knows parameters and no JSON Schema."""

from shared.events import Json
from shared.registry import RegisteredTool, RegisteredToolGroup

_ANY = "object"


def group_entry(group: RegisteredToolGroup) -> Json:
    return {
        "identifier": group.identifier,
        "provider_resource_id": group.resource_id,
        "provider_id": group.provider_id,
        "type": "tool_group",
        "mcp_endpoint": group.mcp_endpoint,
        "args": group.args,
    }


def tool_entry(group: RegisteredToolGroup, tool: RegisteredTool) -> Json:
    return {
        "identifier": tool.name,
        "provider_resource_id": tool.name,
        "provider_id": group.provider_id,
        "toolgroup_id": group.identifier,
        "type": "tool",
        "description": tool.description,
        "parameters": parameters(tool.input_schema),
        "input_schema": tool.input_schema,
        "metadata": {**tool.metadata, "replay": tool.replay},
    }


def runtime_entry(name: str, description: str, input_schema: Json, metadata: Json) -> Json:
    return {"name": name, "description": description, "parameters": parameters(input_schema), "metadata": metadata}


def parameters(schema: Json) -> list[Json]:
    """The properties of a schema as parameters. Schemas are somebody else's words: what is no mapping is left out."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    return [
        {
            "name": name,
            "parameter_type": _type(part),
            "description": str(part.get("description") or ""),
            "required": isinstance(required, list) and name in required,
            "default": part.get("default"),
        }
        for name, part in properties.items()
        if isinstance(part, dict)
    ]


def _type(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    return kind if isinstance(kind, str) and kind else _ANY
