"""`regionr1 serve FOLDER`: an exported policy behind HTTP."""

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regionr1.errors import UserError, sentence
from regionr1.serve.limits import Busy, Limits
from regionr1.serve.region_reranker import RegionReranker
from regionr1.serve.service import Service

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 5001,
    device: str = "auto",
    batch_size: int = 16,
    wait_ms: float = 5.0,
    limits: Limits = Limits(),
) -> None:
    """Answer requests over HTTP with an exported policy, until Ctrl-C.

    POST /invocations takes {"dataframe_records": [{"image": BASE64, "question": "...",
    "candidates": [BASE64, ...]}]} and answers {"predictions": [...]}, as `mlflow models serve`.

    Args:
        folder: What `regionr1 export --out` wrote.
        host: Address to listen at. There is no password: others reach only what you open.
        port: Port to listen at; 0 takes a free one.
        device: Where the model runs; `auto` takes a GPU if there is one.
        batch_size: Most rows that are decided at once, of one request or of several.
        wait_ms: Milliseconds that a batch waits for rows of other requests.
        limits: What requests may ask for.
    """
    import uvicorn

    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}:{port} ({error}); choose another") from error
    with listener:
        reranker = RegionReranker.from_pretrained(folder, device, batch_size)
        application = app(Service(reranker, limits, wait_ms / 1000))
        port = listener.getsockname()[1]
        print(f"serving {folder} on {reranker.device} at http://{host}:{port}/invocations")
        if host not in LOCAL:
            print(f"everyone who reaches {host} can use it: there is no password", flush=True)
        config = uvicorn.Config(
            application, log_level="warning", server_header=False, limit_concurrency=1_000
        )
        uvicorn.Server(config).run(sockets=[listener])


def app(service: Service) -> Any:
    """The application, for uvicorn or any other ASGI server in one process."""
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    limits, held = service.limits, Held(service.limits)
    reading = asyncio.Lock()  # one request at a time is there as bytes, text and objects together

    async def invocations(request: Request) -> JSONResponse:
        body, size = bytearray(), 0
        try:
            async for chunk in request.stream():
                held.take(len(chunk), size)
                body += chunk
                size += len(chunk)
            async with reading:
                rows = await asyncio.to_thread(read_rows, body, limits)
            del body
            asked = service.submit(rows)
            found = await asyncio.gather(*map(asyncio.wrap_future, asked))
        except TooLarge as error:
            return JSONResponse({"error": sentence(error)}, 413, {"Connection": "close"})
        except Busy as error:
            return JSONResponse({"error": sentence(error)}, 503, {"Retry-After": "1"})
        except UserError as error:
            return JSONResponse({"error": sentence(error)}, 400)
        except ClientDisconnect:
            return JSONResponse({"error": "the request ended early"}, 400)  # nobody reads it
        finally:
            held.give(size)
        return JSONResponse({"predictions": found})

    async def ping(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/invocations", invocations, methods=["POST"]),
            Route("/ping", ping),
        ]
    )


class TooLarge(UserError):
    """A request of too many bytes."""


class Held:
    """Counts the bytes of requests that have no answer yet."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0

    def take(self, count: int, before: int) -> None:
        """Takes more bytes of a request.

        Args:
            count: How many.
            before: How many of the request were taken before.

        Raises:
            TooLarge: The request has too many.
            Busy: All requests together have too many.
        """
        if before + count > self.limits.body_bytes:
            raise TooLarge(
                f"the request has more than {self.limits.body_bytes:,} bytes; send fewer rows"
            )
        if self.bytes + count > self.limits.held_bytes:
            raise Busy("the server holds as many requests as it may; try again")
        self.bytes += count

    def give(self, count: int) -> None:
        """Counts a request's bytes as free again."""
        self.bytes -= count


def read_rows(body: bytes | bytearray, limits: Limits) -> Sequence[Any]:
    """The rows of a request.

    Raises:
        UserError: It is no JSON, holds no rows, or is larger as objects than rows within the
            limits could be: three bytes of it can take 64 of memory.
    """
    parts = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if parts > limits.rows * (limits.candidates + limits.question + 16):
        raise UserError("the request has more parts than rows within the limits can have")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError("the request is no JSON") from error
    rows = content.get("dataframe_records") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError('the request holds no rows; send {"dataframe_records": [{...}]}')
    return rows
