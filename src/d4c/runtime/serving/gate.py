"""Lets in as many requests as there is room for, reads them and has them computed within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from d4c.runtime.serving.limits import Limits

T = TypeVar("T")


class Gate:
    """Admits requests, reads their bodies and computes their answers within limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pending = 0
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="d4c-serve")

    async def answer(self, work: Callable[[bytes], T], request: Request) -> T:
        """Return what `work` makes of the body of a request.

        Raises:
            HTTPException: The server is busy (503), or the request is too large (413) or takes too long (408, 504).
        """
        if self.pending >= self.limits.queue:
            raise HTTPException(
                503, f"The server is busy with {self.pending} requests; try again later.", {"Retry-After": "1"}
            )
        self.pending += 1
        try:
            ends = asyncio.get_running_loop().time() + self.limits.seconds
            body = await self._until(ends, self._read(request), 408, "was not received")
            job = self._pool.submit(work, body)
        except BaseException:
            self.pending -= 1
            raise
        # Its place is free when the work is done, which nobody may be waiting for any more.
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return await self._until(ends, asyncio.wrap_future(job), 504, "was not answered")

    def close(self) -> None:
        """End the threads when they have finished what they do; nothing new is begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self) -> None:
        self.pending -= 1

    async def _until(self, ends: float, step: Awaitable[T], status: int, what: str) -> T:
        try:
            async with asyncio.timeout_at(ends):
                return await step
        except TimeoutError:
            raise HTTPException(
                status, f"The request {what} within {self.limits.seconds:g} seconds; send a smaller one, or try later."
            ) from None

    async def _read(self, request: Request) -> bytes:
        most = self.limits.megabytes * 1_000_000
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise HTTPException(
                    413, f"The body has more than {self.limits.megabytes} MB, which is the limit; send a smaller one."
                )
            parts.append(part)
        return b"".join(parts)
