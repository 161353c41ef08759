"""ft try --web: the page answers this machine's own browser, and nobody else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import pytest
from sessions import quiet_session

from ft_toolkit import tryout_page
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.tryout_answers import Draw, Tried, answers_of, load_tried
from ft_toolkit.tryout_page import MOST_BYTES, Server, serve

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> {{ 7*7 }} \x1b[31m & \"'"
QUESTION = {"text": "Asthma narrows the airways", "tokens": 4, "temperature": 1, "seed": 2, "stop": ""}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Run]:
    made = []
    for family in ("gpt2", "bert"):
        values = {
            "name": f"tried-{family}",
            "base": str(checkpoints[family]),
            "corpus": {"source": str(short_corpus)},
            "training": {"steps": 2, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
            "judging": {"general": None},
        }
        options = Options(gate=False, judge=False)
        folder = tmp_path_factory.mktemp("runs")
        made.append(finetune(Recipe.model_validate(values), folder, options, Screen(quiet=True)))
    return made


@pytest.fixture(scope="module")
def tried(runs: list[Run]) -> list[Tried]:
    return load_tried(runs, quiet_session())


@pytest.fixture(scope="module")
def server(tried: list[Tried]) -> Iterator[Server]:
    with Server(tried, HOSTILE, Draw()) as started:
        Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def asked(
    server: Server, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, str, dict[str, str]]:
    """Exactly these headers, and no others but the size of a body."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": f"127.0.0.1:{server.port}"} | headers).items():
        connection.putheader(name, value.replace("PORT", str(server.port)))
    if body is not None and "Content-Length" not in headers:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    reply = connection.getresponse()
    found = reply.status, reply.read().decode(), dict(reply.getheaders())
    connection.close()
    return found


def question(server: Server, **changed: Any) -> tuple[int, dict[str, str]]:
    body = json.dumps(QUESTION | changed).encode()
    status, text, _ = asked(server, "POST", "/answers", JSON, body)
    return status, json.loads(text)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that was pointed at 127.0.0.1
        {"Host": "evil.example:PORT"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Origin": "http://localhost:PORT"},  # this page, but under another name than it is asked by
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_origins_are_refused_whatever_they_ask(server: Server, headers: dict[str, str]) -> None:
    body = json.dumps(QUESTION).encode()
    for method, path in (("GET", "/"), ("POST", "/answers")):
        status, text, replied = asked(
            server, method, path, JSON | headers, body if method == "POST" else None
        )
        assert status == 403 and "only the page itself may ask" in text
        assert not [name for name in replied if name.lower().startswith("access-control")]


def test_the_page_itself_is_answered_under_both_names_of_this_machine(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:PORT", "Origin": f"http://{name}:PORT", "Sec-Fetch-Site": "same-origin"}
        assert asked(server, "POST", "/answers", JSON | own, json.dumps(QUESTION).encode())[0] == 200
        status, page, headers = asked(server, "GET", "/", {"Host": f"{name}:PORT", "Sec-Fetch-Site": "none"})
        assert status == 200 and "<textarea" in page and headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/answers", {"Content-Type": "text/plain"}, b"{}", 415),
        ("POST", "/answers", {"Content-Type": "application/x-www-form-urlencoded"}, b"text=a", 415),
        ("POST", "/answers", JSON | {"Content-Length": str(MOST_BYTES + 1)}, b"", 413),
        ("POST", "/answers", JSON | {"Content-Length": "-1"}, b"", 411),
        ("POST", "/answers", JSON, b"[" * 40_000, 422),
        ("POST", "/answers", JSON, b'"text"', 422),
        ("POST", "/", JSON, b"{}", 404),
        ("GET", "/answers", {}, None, 404),
        ("GET", "/../recipe.yaml", {}, None, 404),
        ("OPTIONS", "/answers", {"Access-Control-Request-Method": "POST"}, None, 501),
        ("PUT", "/answers", JSON, b"{}", 501),
    ],
)
def test_anything_but_a_small_question_in_json_is_refused(
    server: Server, method: str, path: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    assert asked(server, method, path, headers, body)[0] == status


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": " \n"}, "expected a text, found an empty one"),
        ({"text": None}, "text: expected a text"),
        ({"text": "a" * 5001}, "at most 5,000 characters"),
        ({"text": "\ud800"}, "UTF-8"),
        ({"text": "two [MASK] words"}, "is causal"),
        ({"tokens": 0}, "a whole number from 1 to 500"),
        ({"tokens": True}, "a whole number from 1 to 500"),
        ({"tokens": 1.5}, "a whole number from 1 to 500"),
        ({"temperature": float("nan")}, "a number from 0 to 100, found nan"),
        ({"seed": -1}, "a whole number from 0"),
        ({"stop": 3}, "stop: expected a text"),
    ],
)
def test_a_mistake_is_a_line_on_the_page(server: Server, changed: dict[str, Any], words: str) -> None:
    status, found = question(server, **changed)
    assert status == 422 and words in found["error"] and "\n" not in found["error"]


def test_the_page_shows_what_the_models_answer(server: Server, tried: list[Tried]) -> None:
    status, found = question(server)
    assert status == 200
    seen = Tags(found["answers"])
    for each in tried:
        expected = answers_of(each, QUESTION["text"], Draw(4, 1, 2))
        for answer in expected.answers:
            assert all(figure in seen.text for figure in answer.figures.values())
            assert answer.goes_on is None or answer.goes_on in seen.text
    assert seen.found.count("article") == 4
    maps = Tags(found["passages"])
    assert maps.found.count("article") == 2 and maps.found.count("b") > 10
    assert "tried-gpt2 against its base" in maps.text


def test_guesses_of_a_masked_model_are_tables(tried: list[Tried]) -> None:
    found = tryout_page.shown([answers_of(tried[1], "the [MASK] gave <b> a [MASK]", Draw())])
    seen = Tags(found["answers"])
    assert seen.found.count("table") == 4 and found["passages"] == ""
    assert "[MASK] 2" in seen.text and " %" in seen.text


def test_what_is_typed_is_text_and_nothing_else(server: Server) -> None:
    _, page, _ = asked(server, "GET", "/", {})
    assert Tags(page).found.count("script") == 1 and "img" not in Tags(page).found
    status, found = question(server, text=HOSTILE)
    assert status == 200
    seen = Tags(found["answers"] + found["passages"])
    assert not {"script", "img"} & set(seen.found)
    assert (
        "<script>" in seen.text and "{{ 7*7 }}" in seen.text and "␛" in seen.text and "\x1b" not in seen.text
    )


def test_one_question_at_a_time_reaches_the_models(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Barrier(2)

    def slowly(*arguments: Any) -> Any:
        with pytest.raises(BrokenBarrierError):  # a second one in here would let it pass
            alone.wait(timeout=0.2)
        alone.reset()
        return answers_of(*arguments)

    monkeypatch.setattr(tryout_page, "answers_of", slowly)
    found: list[int] = []
    asking = [Thread(target=lambda: found.append(question(server)[0])) for _ in range(3)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert found == [200, 200, 200]


def test_ctrl_c_ends_it_with_one_line(runs: list[Run]) -> None:
    command = [sys.executable, "-u", "-m", "ft_toolkit", "try", str(runs[0].folder), "--web"]
    # a suite that runs in the background ignores SIGINT, and so would what it starts
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listens
    ) as started:
        assert started.stdout is not None
        address = started.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        page = HTTPConnection("127.0.0.1", int(address.strip("/").rpartition(":")[2]), timeout=60)
        page.request("GET", "/")
        assert page.getresponse().status == 200
        started.send_signal(signal.SIGINT)
        try:
            said, noted = started.communicate(timeout=60)
        finally:
            started.kill()
    told, ended = noted.splitlines()
    assert "Ctrl-C ends it" in told and ended == "The page has ended."
    assert (said, started.returncode) == ("", 0)


def test_a_port_that_is_taken_is_one_line(server: Server, tried: list[Tried]) -> None:
    with pytest.raises(FtError, match=r"--port: expected a free port, found \d+ \(Address already in use\)"):
        serve(tried, "", Draw(), server.port, Screen(quiet=True))


SHOTS = os.environ.get("FT_SCREENSHOTS")  # a folder that keeps what was seen


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_a_browser_asks_by_keyboard_and_sees_answers_map_and_mistakes(
    server: Server, width: int, scheme: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install '.[browser]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page, faults = context.new_page(), []
        own = f"http://127.0.0.1:{server.port}/"
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((own, "data:")) else faults.append(asked.url),
        )
        page.goto(own)
        assert page.locator("#text").input_value() == HOSTILE
        page.keyboard.press("Tab")  # the skip link
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "text"
        page.keyboard.press("Control+Enter")
        page.locator("#passages b[data-n]").first.wait_for()
        assert page.locator("#told").inner_text() == "The answers are below."
        page.locator("#passages .text").first.focus()
        page.keyboard.press("ArrowRight")
        assert " → tuned " in page.locator("#readout").inner_text()
        page.locator("input[value=up]").check()
        page.locator("input[value=all]").check()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.title().startswith("ft try: ")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/try-{width}-{scheme}.png", full_page=True)
        found = axe.Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
        assert faults == []
        page.locator("#text").fill("   ")
        page.get_by_role("button", name="Ask").click()
        page.get_by_role("alert").get_by_text("expected a text").wait_for()
        browser.close()
