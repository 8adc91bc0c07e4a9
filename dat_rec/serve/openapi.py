"""The server's OpenAPI document, made of the same models that check requests; and a plain page."""

from html import escape
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import dat_rec
from dat_rec.serve.limits import Limits
from dat_rec.serve.requests import (
    Error,
    Health,
    Nearest,
    Recommend,
    Recommended,
    Reloaded,
    Similar,
)

Json = dict[str, Any]


class Operation(NamedTuple):
    """What one path does."""

    method: str
    path: str
    what: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    refuses: tuple[int, ...] = ()


BODY = (400, 408, 413, 415, 503)
OPERATIONS = (
    Operation("post", "/recommend", "The best items of users.", Recommended, Recommend, BODY),
    Operation(
        "get",
        "/recommend/{user_id}",
        "The best items of a user, whose id holds no slash.",
        Recommended,
        None,
        (400, 404, 503),
    ),
    Operation("post", "/similar", "The nearest items of items.", Nearest, Similar, BODY),
    Operation("get", "/health", "Whether the server is live and ready.", Health, None, (503,)),
    Operation("get", "/metrics", "Figures, as Prometheus reads them.", None),
    Operation("post", "/reload", "Serve what is at the path now.", Reloaded, None, (403, 409)),
)
REASONS = {
    400: "The request is not what it must be, or the export cannot answer it.",
    401: "The token is missing or wrong.",
    403: "The server has no token, and takes no orders.",
    404: "There is no such path.",
    408: "The body did not come in time.",
    409: "The new export is refused; the old one goes on serving.",
    413: "The body is too large.",
    415: "The body is compressed.",
    503: "Too many requests wait, or the server is about to end: ask again.",
}
QUERY: list[Json] = [
    {
        "name": "user_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    },
    {"name": "k", "in": "query", "schema": {"type": "integer", "minimum": 1}},
    {"name": "exclude_seen", "in": "query", "schema": {"type": "boolean", "default": False}},
    {"name": "blend_history", "in": "query", "schema": {"type": "boolean", "default": False}},
]


def document(limits: Limits, *, token: bool) -> Json:
    """The document, of OpenAPI 3.1.

    Args:
        limits: of this server.
        token: whether it asks for one.
    """
    models = {one for what in OPERATIONS for one in (what.answer, what.body) if one} | {Error}
    _, schemas = models_json_schema(
        [(one, "validation") for one in sorted(models, key=lambda one: one.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    components: Json = {"schemas": _limited(schemas["$defs"], limits)}
    found: Json = {
        "openapi": "3.1.0",
        "info": {"title": "dat-rec serve", "version": dat_rec.__version__},
        "paths": {},
        "components": components,
    }
    for one in OPERATIONS:
        found["paths"].setdefault(one.path, {})[one.method] = _operation(one, token=token)
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return found


def page(found: Json) -> str:
    """The document as one page of HTML, which loads nothing."""
    rows = "".join(
        f"<tr><td>{method.upper()}<td><code>{escape(path)}</code><td>{escape(what['summary'])}"
        for path, methods in found["paths"].items()
        for method, what in methods.items()
    )
    schemas = "".join(
        f"<h2>{escape(name)}</h2><p>{escape(schema.get('description', ''))}"
        f"<table>{_fields(schema)}</table>"
        for name, schema in found["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>dat-rec serve</title>'
        "<style>body{font-family:sans-serif;max-width:60em;margin:auto;padding:1em}"
        "td{vertical-align:top;padding:.2em .8em .2em 0}</style><h1>dat-rec serve</h1>"
        f'<table>{rows}</table><p><a href="/openapi.json">openapi.json</a> (OpenAPI 3.1){schemas}'
    )


def _fields(schema: Json) -> str:
    required = schema.get("required", ())
    return "".join(
        f"<tr><td><code>{escape(name)}</code><td>{'required' if name in required else ''}"
        f"<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    )


def _operation(one: Operation, *, token: bool) -> Json:
    answer: Json = {"description": "Done."}
    if one.answer is not None:
        answer["content"] = _content(one.answer)
    else:
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    free = one.path == "/health"
    refuses = (*one.refuses, *(() if free or not token else (401,)))
    found: Json = {"summary": one.what, "responses": {"200": answer}}
    for status in sorted(refuses):
        model = Health if free else Error
        found["responses"][str(status)] = {
            "description": REASONS[status],
            "content": _content(model),
        }
    if one.body is not None:
        found["requestBody"] = {"required": True, "content": _content(one.body)}
    if "{user_id}" in one.path:
        found["parameters"] = QUERY
    if token and not free:
        found["security"] = [{"token": []}]
    return found


def _content(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _limited(schemas: Json, limits: Limits) -> Json:
    """The schemas, with the limits of this server in them."""
    most = {"user_ids": limits.users, "queries": limits.users, "item_ids": limits.users}
    most |= {"exclude": limits.ids, "available": limits.ids}
    for name in ("Recommend", "Similar"):
        fields = schemas[name]["properties"]
        fields["k"]["anyOf"][0]["maximum"] = limits.k
        for field, number in most.items():
            for kind in [fields.get(field, {}), *fields.get(field, {}).get("anyOf", ())]:
                if kind.get("type") == "array":
                    kind["maxItems"] = number
    return schemas
