"""ft try --web: a page on 127.0.0.1 that asks the models about any text typed into it.

It answers this machine's own browser alone. A request is refused unless it names this very address as its
host (a name that an attacker points at 127.0.0.1 is another host) and comes from this page or from no page.
Questions are JSON, which a form of another site cannot send.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Event, Lock
from typing import Any

from ft_toolkit.errors import FtError
from ft_toolkit.models.guesses import MASK
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.page import fragment, page
from ft_toolkit.reporting.passages import moved_most
from ft_toolkit.reporting.tables import shown_base
from ft_toolkit.tryout_answers import Answers, Draw, Tried, answers_of

ADDRESS = "127.0.0.1"
MOST_BYTES = 50_000  # of a request
MOST_CHARACTERS = 5_000  # of a text: a masked model reads it once for each of its tokens
MOST_TOKENS = 500  # of a continuation
QUIET_SECONDS = 10  # a connection that says nothing for so long is closed
WAIT_SECONDS = 120  # for the models, while they answer another request
END_SECONDS = 5  # after Ctrl-C, for an answer under way
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(tried: Sequence[Tried], text: str, draw: Draw, port: int | None, screen: Screen) -> None:
    """Serve the page until Ctrl-C.

    text     stands in the box at the beginning
    port     None: a free one
    raises   FtError for a port that is taken
    """
    try:
        server = Server(tried, text, draw, port or 0)
    except OSError as error:
        found = error.strerror or "an error"
        raise FtError("--port", "a free port", f"{port} ({found})", "Leave --port out.") from None
    with server:
        screen.result(f"http://{ADDRESS}:{server.port}/")
        screen.say("Open this address in a browser on this machine and type a text. Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            screen.say("The page has ended.")
        finally:
            server.is_ending.set()
            server.models.acquire(timeout=END_SECONDS)


class Server(ThreadingTCPServer):
    """The page and its answers; one request at a time reaches the models."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, tried: Sequence[Tried], text: str, draw: Draw, port: int = 0) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.tried, self.models, self.is_ending = tried, Lock(), Event()
        self.port: int = self.server_address[1]
        names = [one.name for each in tried for one in each.tuned]
        self.page = page(
            "tryout.html",
            ("page.js", "tryout.js"),
            title=", ".join(names) if len(names) > 1 else f"tuned from {shown_base(tried[0].base.name)}",
            text=text,
            draw=draw,
            stop=draw.stop[0].replace("\n", "\\n") if draw.stop else "",
            is_causal=any(not each.is_masked for each in tried),
            is_masked=any(each.is_masked for each in tried),
            mask=MASK,
            most_characters=MOST_CHARACTERS,
            most_tokens=MOST_TOKENS,
        )

    @property
    def hosts(self) -> tuple[str, str]:
        return f"{ADDRESS}:{self.port}", f"localhost:{self.port}"

    def answer(self, asked: Asked) -> dict[str, str]:
        """The parts of the page that a question changes, as HTML.

        raises   FtError as answers_of does, and where the models are busy for too long
        """
        if not self.models.acquire(timeout=WAIT_SECONDS):
            raise FtError("ft try", "a free model", "one at work", "Wait for the other answer.")
        try:
            found = [answers_of(each, asked.text, asked.draw, self._go_on) for each in self.tried]
        finally:
            self.models.release()
        return shown(found)

    def _go_on(self, name: str, so_far: str) -> None:
        """Called behind each token; raises   FtError once Ctrl-C was pressed"""
        if self.is_ending.is_set():
            raise FtError("ft try", "a page that is served", "its end", "Start ft try again.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def shown(found: Sequence[Answers]) -> dict[str, str]:
    """Answers as HTML: one part with the answers, one with the token maps (empty where there are none)."""
    passages = [one.passage for each in found for one in each.answers if one.passage is not None]
    named = [(passage, moved_most(passage.pieces)) for passage in passages]
    named_bases = [(shown_base(each.base_name), each) for each in found]
    return {
        "answers": fragment("tryout_answers.html", found=named_bases, mask=MASK),
        "passages": fragment("tryout_passages.html", named=named) if named else "",
    }


@dataclass(frozen=True)
class Asked:
    """A question."""

    text: str
    draw: Draw

    @classmethod
    def from_json(cls, body: bytes) -> Asked:
        """raises   FtError for anything but the five values of the form, each within its limits"""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise FtError("request", "a JSON object", "something else", "Reload the page.")
        text, stop = _text(values, "text", MOST_CHARACTERS), _text(values, "stop", 100)
        tokens = _number(values, "tokens", 1, MOST_TOKENS)
        seed = _number(values, "seed", 0, 2**31)
        temperature = _number(values, "temperature", 0, 100, is_whole=False)
        stops = (stop.replace("\\n", "\n"),) if stop else ()
        return cls(text, Draw(int(tokens), temperature, int(seed), stops))


def _text(values: dict[str, Any], name: str, most: int) -> str:
    found = values.get(name)
    if not isinstance(found, str):
        raise FtError(name, "a text", "none", "Type one.")
    if len(found) > most:
        raise FtError(name, f"at most {most:,} characters", f"{len(found):,}", "Shorten it.")
    return found


def _number(values: dict[str, Any], name: str, least: int, most: int, *, is_whole: bool = True) -> float:
    found = values.get(name)
    kinds = int if is_whole else (int, float)
    if isinstance(found, bool) or not isinstance(found, kinds) or not least <= found <= most:
        wanted = f"a {'whole ' if is_whole else ''}number from {least} to {most:,}"
        raise FtError(name, wanted, "none" if found is None else str(found)[:20], "Change it.")
    return found


class _Handler(BaseHTTPRequestHandler):
    """GET / is the page; POST /answers asks the models."""

    server: Server
    timeout = QUIET_SECONDS
    server_version, sys_version = "ft-toolkit", ""

    def do_GET(self) -> None:
        if self._is_refused():
            return
        if self.path != "/":
            self._send(404, "text/plain", f"expected /, found {self.path[:80]!r}\n")
            return
        self._send(200, "text/html", self.server.page)

    def do_POST(self) -> None:
        if self._is_refused():
            return
        if self.path != "/answers":
            self._fail(404, "there is nothing here")
        elif self.headers.get_content_type() != "application/json":
            self._fail(415, "expected application/json")
        elif (size := self._size()) is None:
            self._fail(411, "expected a Content-Length")
        elif size > MOST_BYTES:
            self._fail(413, f"expected at most {MOST_BYTES:,} bytes, found {size:,}")
        else:
            self._answer(self.rfile.read(size))

    def _answer(self, body: bytes) -> None:
        try:
            found = self.server.answer(Asked.from_json(body))
        except FtError as error:
            self._fail(422, str(error))
        except Exception:
            self._fail(500, "this is a bug in ft-toolkit; the terminal shows where")
            raise
        else:
            self._send(200, "application/json", json.dumps(found))

    def _is_refused(self) -> bool:
        """Whether another site's page, or a name that was pointed at this address, asked; it is told."""
        hosts = self.headers.get_all("Host") or []
        is_here = len(hosts) == 1 and hosts[0].lower() in self.server.hosts
        origins = self.headers.get_all("Origin") or []
        is_ours = is_here and all(origin == f"http://{hosts[0].lower()}" for origin in origins)
        sites = set(self.headers.get_all("Sec-Fetch-Site") or [])
        if is_ours and sites <= {"same-origin", "none"}:
            return False
        self._fail(403, "only the page itself may ask, under the address that ft try printed")
        return True

    def _size(self) -> int | None:
        size = self.headers.get("Content-Length", "")
        return int(size) if size.isascii() and size.isdigit() and len(size) < 20 else None

    def _fail(self, status: int, words: str) -> None:
        self._send(status, "application/json", json.dumps({"error": words}))

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what was asked is nobody's business, and the terminal stays quiet."""
