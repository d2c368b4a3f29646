"""The addresses of the server, and what every response has in common: sentences as errors, headers, counts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from d4c.errors import DataError, SettingError
from d4c.runtime.gallery import Gallery
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.serving.answers import Answers, small_picture
from d4c.runtime.serving.gate import Gate
from d4c.runtime.serving.limits import Limits
from d4c.runtime.serving.metrics import TYPE, Metrics

PAGE = files(__package__).joinpath("front_page.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """What lets a browser use the page's own style or script, and no other."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Site:
    """A model, and the pictures of a folder, as an ASGI application.

    Args:
        model: The model.
        gallery: Pictures to search, if there are any.
        folder: Where they are.
        limits: What requests may take.
        hosts: Names by which the server may be called; None for any. Pages of others, whose names lead to this machine,
            could otherwise read what it answers.
    """

    def __init__(
        self,
        model: RuntimeCLIP,
        gallery: Gallery | None = None,
        folder: Path | None = None,
        limits: Limits | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self._answers = Answers(model)
        self._gallery, self._folder, self._hosts = gallery, folder, hosts
        self._gate = Gate(limits or Limits())
        self._metrics = Metrics(lambda: self._gate.pending, 0 if gallery is None else len(gallery.paths))
        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/metrics", self._read_metrics),
            Route("/embed/image", self._embed_image, methods=["POST"]),
            Route("/embed/text", self._embed_text, methods=["POST"]),
            Route("/classify", self._classify, methods=["POST"]),
            Route("/search", self._search, methods=["GET", "POST"]),
            Route("/thumbnail", self._thumbnail),
        ]
        self._paths = {route.path for route in routes}
        self._app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={
                HTTPException: _say_status,
                DataError: lambda _, error: _json({"error": str(error)}, 400),
                SettingError: lambda _, error: _json({"error": str(error)}, 400),  # a tower that is not there
                ClientDisconnect: lambda *_: _json({"error": "The request was cut off; send it again."}, 400),
                Exception: lambda *_: _json({"error": "The server failed at this request; its log says why."}, 500),
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            if self._knows(Request(scope).headers.get("host", "")):
                await self._app(scope, receive, send_counted)
            else:
                refusal = _json(
                    {"error": "The request names another host; use the address that d4c serve printed."}, 421
                )
                await refusal(scope, receive, send_counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count(path, status, time.perf_counter() - started)

    def _knows(self, host: str) -> bool:
        if self._hosts is None:
            return True
        try:
            return urlsplit(f"//{host}").hostname in self._hosts
        except ValueError:
            return False

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        self._gate.close()

    async def _page(self, _request: Request) -> Response:
        return Response(PAGE, media_type="text/html")

    async def _health(self, _request: Request) -> Response:
        pictures = None if self._gallery is None else len(self._gallery.paths)
        return _json({"model": self._answers.model.name, "pictures": pictures})

    async def _read_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": TYPE})

    async def _embed_image(self, request: Request) -> Response:
        return await self._answer(request, self._answers.embed_image)

    async def _embed_text(self, request: Request) -> Response:
        return await self._answer(request, self._answers.embed_text)

    async def _classify(self, request: Request) -> Response:
        labels, templates = (request.query_params.getlist(name) for name in ("label", "template"))
        return await self._answer(request, lambda body: self._answers.classify(body, labels, templates))

    async def _search(self, request: Request) -> Response:
        gallery = self._pictures()
        words, top = (request.query_params.get(name) for name in ("words", "top"))
        if request.method == "GET":
            words = words or ""
        return await self._answer(request, lambda body: self._answers.search(gallery, body, words, top or "10"))

    async def _thumbnail(self, request: Request) -> Response:
        path = request.query_params.get("path", "")
        if path not in self._pictures().paths or self._folder is None:
            raise HTTPException(404, "There is no picture of this name; search again.")
        file = self._folder / path
        return Response(await self._gate.answer(lambda _: small_picture(file), request), media_type="image/jpeg")

    def _pictures(self) -> Gallery:
        if self._gallery is None:
            raise HTTPException(404, "This server has no pictures to search; start it with --pictures.")
        return self._gallery

    async def _answer(self, request: Request, work: Callable[[bytes], dict[str, Any]]) -> Response:
        # Long lists of numbers become text in the worker, not where all connections are served.
        text = await self._gate.answer(lambda body: json.dumps(work(body)), request)
        return Response(text, media_type="application/json")


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")


def _say_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail
    if error.status_code == 405:
        sentence = f"{request.url.path} does not take {request.method}, expected {(error.headers or {}).get('Allow')}."
    elif not sentence.endswith("."):
        sentence = "There is nothing at this address; / has a page, and d4c serve --help names what there is."
    response = _json({"error": sentence}, error.status_code)
    response.headers.update(error.headers or {})
    return response
