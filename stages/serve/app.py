"""The routes: what is asked over HTTP goes to the service, one request at a time, and every error is JSON."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from stages.serve.requests import Field, read_fields
from stages.serve.service import Medium, Refused, Service

MAX_COUNT: Final = 100
PAGE: Final = Path(__file__).with_name("page.html")


class Endpoints:
    """The handlers of one service. Models run in a thread, one request after the other, while others are read."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.one_at_a_time = CapacityLimiter(1)

    async def page(self, request: Request) -> Response:
        """Show a page for people."""
        return FileResponse(PAGE)

    async def health(self, request: Request) -> Response:
        """Say what there is; a server that answers is ready."""
        return JSONResponse({"status": "ok", **self.service.describe()})

    async def embed(self, request: Request) -> Response:
        """Return a unit vector for every text and file, by modality and in order."""
        media = [_medium(field) for field in await read_fields(request)]
        if not media:
            raise HTTPException(400, "found nothing to embed, expected texts or files")
        vectors = await self._run(self.service.embed, media)
        return JSONResponse({"vectors": {name: found.tolist() for name, found in vectors.items()}})

    async def search(self, request: Request) -> Response:
        """Return the samples nearest to one text or file; `?count=` says how many."""
        count = _count(request.query_params.get("count", "10"))
        fields = await read_fields(request)
        if len(fields) != 1:
            raise HTTPException(400, f"found {len(fields)} values, expected one text or file to search with")
        hits = await self._run(self.service.search, _medium(fields[0]), count)
        return JSONResponse({"hits": {name: [asdict(hit) for hit in found] for name, found in hits.items()}})

    async def ask(self, request: Request) -> Response:
        """Return the assistant's answer to a question about at most one file of each modality."""
        fields = await read_fields(request)
        questions = [field for field in fields if field.name == "question"]
        if len(questions) != 1 or questions[0].filename is not None or not questions[0].data.strip():
            raise HTTPException(400, "expected one 'question', as text")
        media = [_medium(field) for field in fields if field.name != "question"]
        answer = await self._run(self.service.ask, questions[0].data.decode(), media)
        return JSONResponse({"answer": answer})

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await to_thread.run_sync(partial(function, *args), limiter=self.one_at_a_time)


def build_app(service: Service) -> Starlette:
    """Build the web application of a service."""
    endpoints = Endpoints(service)
    app = Starlette(
        routes=[
            Route("/", endpoints.page, methods=["GET"]),
            Route("/health", endpoints.health, methods=["GET"]),
            Route("/embed", endpoints.embed, methods=["POST"]),
            Route("/search", endpoints.search, methods=["POST"]),
            Route("/ask", endpoints.ask, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, Refused: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


def _medium(field: Field) -> Medium:
    return Medium(field.name, field.data, field.filename)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_COUNT):
        raise HTTPException(400, f"found count '{text[:20]}', expected a whole number from 1 to {MAX_COUNT}")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    return JSONResponse({"error": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    """Tell the client nothing of our own mistakes; the server's log has the traceback."""
    return JSONResponse({"error": "the server failed on this request; its log says where"}, 500)
