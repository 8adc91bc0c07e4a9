"""Paths of the server: what they take is checked here, and each error is a line of JSON."""

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dat_rec.errors import UserError
from dat_rec.serve.answers import Answers
from dat_rec.serve.current import Current
from dat_rec.serve.lanes import BusyError
from dat_rec.serve.limits import RETRY_S, Limits
from dat_rec.serve.metrics import Metrics, say
from dat_rec.serve.openapi import document, page
from dat_rec.serve.requests import Body, Recommend, Similar, said

FREE = ("/health",)
"""Paths for which no token is asked."""
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class RefusedError(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Service:
    """Answers requests from the export that is served.

    Args:
        current: the export.
        answers: what computes.
        limits: of requests.
        metrics: what is counted.
        token: who has it may ask; None: everybody may, and nobody may order a reload.
        reload_others: called when somebody has ordered one.
    """

    def __init__(
        self,
        current: Current,
        answers: Answers,
        limits: Limits,
        metrics: Metrics,
        token: str | None,
        reload_others: Callable[[], None] | None = None,
    ) -> None:
        self._reload_others = reload_others
        self._current, self._answers, self._limits = current, answers, limits
        self._metrics, self._token = metrics, token
        self._document = document(limits, token=token is not None)
        self._page = page(self._document)
        self.ending = False
        """Whether the server is about to end: then it is not ready."""

    def app(self) -> ASGIApp:
        """The application, as ASGI has it."""
        routes = [
            Route("/", self._show, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/recommend", self._recommend, methods=["POST"]),
            Route("/recommend/{user_id}", self._recommend_one, methods=["GET"]),
            Route("/similar", self._similar, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
            Route("/reload", self._reload, methods=["POST"]),
        ]
        handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            HTTPException: _no_such_path,
            RefusedError: _refused,
            UserError: _bad_input,
            BusyError: _busy,
            Exception: _bug,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        known = {route.path.partition("{")[0].rstrip("/") or "/" for route in routes}
        return _Door(app, known, self._metrics, self._token)

    async def _recommend(self, request: Request) -> Response:
        return await self._answer(await self._read(request, Recommend))

    async def _similar(self, request: Request) -> Response:
        return await self._answer(await self._read(request, Similar))

    async def _recommend_one(self, request: Request) -> Response:
        given = dict(request.query_params)
        if len(request.query_params.multi_items()) != len(given):
            raise RefusedError(400, "query: an option stands there twice: give it once")
        user: Any = request.path_params["user_id"]
        if pa.types.is_integer(self._current.served.recommender.user_ids.type):
            user = _number("user_id", user)
        options: dict[str, Any] = {}
        if "k" in given:
            options["k"] = _number("k", given.pop("k"))
        for name in ("exclude_seen", "blend_history"):
            if (text := given.pop(name, None)) is not None:
                if text not in FLAGS:
                    raise RefusedError(400, f"{name} is {text!r}: give true or false")
                options[name] = FLAGS[text]
        if given:
            raise RefusedError(
                400, f"query: no option {next(iter(given))!r}: POST /recommend has more"
            )
        try:
            body = Recommend(user_ids=[user], **options)
        except ValidationError as error:
            raise RefusedError(400, said(error.errors(include_url=False))) from error
        body.check(self._limits)
        return await self._answer(body)

    async def _answer(self, body: Body) -> Response:
        return Response(await self._answers.of(body), media_type="application/json")

    async def _read(self, request: Request, kind: type[Recommend] | type[Similar]) -> Body:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, "content-encoding: send the body as it is")
        try:
            async with asyncio.timeout(self._limits.body_s):
                content = await _bounded(request, self._limits.body_bytes)
        except TimeoutError as error:
            reason = f"body: not there after {self._limits.body_s} s"
            raise RefusedError(408, reason, {"connection": "close"}) from error
        try:
            body = kind.model_validate_json(content)
        except ValidationError as error:
            reason = said(error.errors(include_url=False, include_input=False))
            raise RefusedError(400, reason) from error
        body.check(self._limits)
        return body

    async def _health(self, _: Request) -> Response:
        served = self._current.served
        return JSONResponse(
            {
                "live": True,
                "ready": not self.ending,
                "export": served.id,
                "model": served.recommender.export.model_id,
                "items": len(served.recommender.item_ids),
                "users": len(served.recommender.user_ids),
            },
            503 if self.ending else 200,
        )

    async def _reload(self, _: Request) -> Response:
        if self._token is None:
            raise RefusedError(403, "reload: the server has no token: send it SIGHUP")
        try:
            changed = await self._current.reload()
        except UserError as error:
            raise RefusedError(409, str(error)) from error
        if self._reload_others is not None:
            self._reload_others()
        return JSONResponse({"export": self._current.served.id, "changed": changed})

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def _show(self, _: Request) -> Response:
        return HTMLResponse(self._page)


class _Door:
    """Asks for the token, counts, and answers when something is wrong with the server itself."""

    def __init__(self, app: ASGIApp, known: set[str], metrics: Metrics, token: str | None) -> None:
        self._app, self._known, self._metrics = app, known, metrics
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._may(scope):
                await self._app(scope, receive, sending)
            else:
                headers = {"www-authenticate": "Bearer"}
                reason = "token: is missing or wrong: send Authorization: Bearer TOKEN"
                await _error(401, reason, headers)(scope, receive, sending)
        except ClientDisconnect:
            status = 499
        except Exception:
            # Starlette has sent the answer of ``_bug``.
            say(f"a bug, answered with 500:\n{traceback.format_exc()}")
        path = "/" + scope["path"].removeprefix("/").partition("/")[0]
        path = path if path in self._known else "other"
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(time.perf_counter() - begin)

    def _may(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in FREE:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._token)


async def _bounded(request: Request, most: int) -> bytes:
    """The body, of so many bytes at most."""
    reason = f"body: more than {most} bytes"
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > most:
        raise RefusedError(413, reason, {"connection": "close"})
    found, length = [], 0
    async for part in request.stream():
        found.append(part)
        length += len(part)
        if length > most:
            raise RefusedError(413, reason, {"connection": "close"})
    return b"".join(found)


def _number(name: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise RefusedError(400, f"{name} is {text[:40]!r}: give a whole number")
    return int(text)


def _error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    line = json.dumps({"error": " ".join(reason.split())})
    return Response(line, status, headers, media_type="application/json")


async def _no_such_path(_: Request, error: HTTPException) -> Response:
    reason = {404: "no such path: GET / lists them", 405: "no such method here: GET / lists them"}
    return _error(
        error.status_code,
        reason.get(error.status_code, error.detail),
        dict(error.headers or {}),
    )


async def _refused(_: Request, error: RefusedError) -> Response:
    return _error(error.status, str(error), error.headers)


async def _bad_input(_: Request, error: UserError) -> Response:
    return _error(400, str(error))


async def _bug(_: Request, __: Exception) -> Response:
    return _error(500, "a bug in the server, whose log has the traceback")


async def _busy(_: Request, __: BusyError) -> Response:
    return _error(503, "too many requests wait: ask again", {"retry-after": str(RETRY_S)})
