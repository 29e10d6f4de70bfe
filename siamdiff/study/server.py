"""The web page of a study, as an application: who is signed in, their images, their answers. It has no key to it.

Nothing in an address, a header or a size depends on an image's origin: names are random, every file is as long as any
other, and headers are the same for all.
"""

import hashlib
import logging
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Cookie, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints

from siamdiff.study.answers import REASONS, Answers, Sent
from siamdiff.study.codes import MAX_LENGTH, reader_of
from siamdiff.study.folder import IMAGES, Reader, Readers, Study

log = logging.getLogger(__name__)

COOKIE = "siamdiff_study"
SESSION_SECONDS = 12 * 3600.0
MAX_FAILURES, FAILURE_SECONDS = 8, 60.0  # wrong codes of one address, and in which time
MAX_BODY = 64 * 1024
_MAX_ADDRESSES = 1000
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Robots-Tag": "noindex",
}


class SignIn(BaseModel):
    """What a reader types."""

    model_config = ConfigDict(extra="forbid")

    code: Annotated[str, StringConstraints(max_length=MAX_LENGTH)]


class SentBy(Sent):
    """A change, and whose page sends it: the cookie may be another's by now, who signed in in another tab."""

    reader: Reader


class Failures:
    """Wrong codes of each address, lately."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}
        self.lock = threading.Lock()  # one code is checked at a time: each takes memory and a moment

    def too_many(self, address: str) -> bool:
        """Whether the address has to wait."""
        times = self._times.get(address, deque())
        while times and times[0] < time.monotonic() - FAILURE_SECONDS:
            times.popleft()
        return len(times) >= MAX_FAILURES

    def add(self, address: str) -> None:
        """Notes a wrong code."""
        while len(self._times) >= _MAX_ADDRESSES and address not in self._times:
            self._times.pop(next(iter(self._times)))
        self._times.setdefault(address, deque()).append(time.monotonic())


def create_app(place: Path, study: Study, readers: Readers, answers: Answers) -> FastAPI:
    """The application that serves a study.

    Args:
        place: the study's folder, of which only the images are read.
        study: its study.json.
        readers: codes that are let in.
        answers: where answers are kept.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="Reader study")
    _add_guards(app)
    _add_page(app)
    _add_sessions(app, readers, answers)

    def signed_in(token: str | None) -> str:
        since = time.time() - SESSION_SECONDS
        reader = answers.session(_hash(token), since) if token else None
        if reader is None or reader not in study.orders:
            raise HTTPException(401, "sign in with your personal code")
        return reader

    @app.get("/api/study")
    def tell(token: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> dict[str, Any]:
        reader = signed_in(token)
        kept = answers.of(reader)
        return {
            "study": study.id,
            "reader": reader,
            "side": study.side,
            "reasons": REASONS,
            "images": study.orders[reader],
            "answers": {
                name: {"change": of.change, "answer": of.answer.model_dump()} for name, of in kept.items()
            },
        }

    @app.put("/api/answers/{name}")
    def keep(name: str, sent: SentBy, token: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> Response:
        reader = signed_in(token)
        if reader != sent.reader:
            raise HTTPException(401, f"this is an answer of {sent.reader}, who has to sign in again")
        if name not in study.orders[reader]:
            raise HTTPException(404, "there is no such image")
        if answers.save(reader, name, sent):
            return Response(status_code=204)
        kept = answers.of(reader)[name]
        return JSONResponse({"change": kept.change, "answer": kept.answer.model_dump()}, status_code=409)

    @app.get("/images/{name}.png")
    def image(name: str, token: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> Response:
        if name not in study.orders[signed_in(token)]:
            raise HTTPException(404, "there is no such image")
        return Response((place / IMAGES / f"{name}.png").read_bytes(), media_type="image/png")

    return app


def _add_sessions(app: FastAPI, readers: Readers, answers: Answers) -> None:
    """Signing in and out."""
    failures = Failures()

    @app.post("/api/session", status_code=204)
    def sign_in(body: SignIn, request: Request) -> Response:
        address = request.client.host if request.client else ""
        with failures.lock:
            if failures.too_many(address):
                raise HTTPException(
                    429, "too many wrong codes; wait a minute", {"Retry-After": f"{FAILURE_SECONDS:.0f}"}
                )
            reader = reader_of(body.code, readers)
            if reader is None:
                failures.add(address)
                log.warning("a wrong code was given")
                raise HTTPException(403, "this is no code of this study")
        token = secrets.token_urlsafe(32)
        answers.begin_session(_hash(token), reader, time.time() - SESSION_SECONDS)
        log.info("%s signed in", reader)
        response = Response(status_code=204)
        secure = request.url.scheme == "https"  # as the proxy in front says
        response.set_cookie(
            COOKIE, token, max_age=int(SESSION_SECONDS), httponly=True, samesite="strict", secure=secure
        )
        return response

    @app.delete("/api/session", status_code=204)
    def sign_out(token: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> Response:
        if token:
            answers.end_session(_hash(token))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _add_page(app: FastAPI) -> None:
    """The page's own files, which need no signing in and tell nothing."""
    for file in resources.files("siamdiff.study").joinpath("page").iterdir():
        name = file.name
        if Path(name).suffix in _TYPES:
            _add_file(
                app, "/" if name == "index.html" else f"/{name}", file.read_bytes(), _TYPES[Path(name).suffix]
            )


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path)
    def send() -> Response:
        return Response(content, media_type=media_type)


def _add_guards(app: FastAPI) -> None:
    """What holds for every request: where it comes from, how long it is, and the headers of what it gets."""

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refused(request)
        response = JSONResponse({"detail": refused[1]}, refused[0]) if refused else await call(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]  # without what was given, which may be a code
        where = ".".join(map(str, fault["loc"]))
        return JSONResponse({"detail": f"{where}: {fault['msg']}"}, 422)

    @app.exception_handler(sqlite3.Error)
    async def unkept(request: Request, error: sqlite3.Error) -> Response:
        log.error("the answers cannot be used: %s", error)
        return JSONResponse({"detail": "the answer could not be kept; the page tries again"}, 503)


def _refused(request: Request) -> tuple[int, str] | None:
    """Status and reason where a request is not let through."""
    if request.method in ("GET", "HEAD"):
        return None
    if not _is_own(request):
        return 403, "only the study's own page may ask for this"
    length = request.headers.get("content-length", "0" if request.method == "DELETE" else "")
    if not length.isdecimal() or int(length) > MAX_BODY:
        return 413, f"at most {MAX_BODY} bytes, and say how many"
    kind = request.headers.get("content-type", "").partition(";")[0]
    if request.method != "DELETE" and kind != "application/json":
        return 415, "application/json alone"
    return None


def _is_own(request: Request) -> bool:
    """Whether the study's page asks, or no browser does.

    No page can set Sec-Fetch-Site, and it holds whatever a proxy makes of Host: where it is there, it decides. Browsers
    send it over TLS and to loopback alone.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return not origin or urlsplit(origin).netloc == request.headers.get("host")
