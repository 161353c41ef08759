"""PDF pages as running text: paragraphs of whole words, without the headers and footers of pages."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ft_toolkit.errors import Unreadable
from ft_toolkit.text.packed import File, named

EDGE_LINES = 2  # at the top and the bottom of a page, where headers, footers and page numbers are
REPEATED_PAGES = 3  # that have the same line there
SHORT_LINE = 0.75  # of the usual line's characters: a shorter one ends its paragraph
_NUMBER = re.compile(r"\d{1,9}|\b[ivxl]+\b")
_ROMAN = {
    f"{tens}{ones}": 10 * ten + one
    for ten, tens in enumerate(("", "x", "xx", "xxx", "xl"))
    for one, ones in enumerate(("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"))
}  # of a preface
_BULLET = re.compile(r"\s*(?:[•◦▪‣·*–—-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
_HYPHENATED = re.compile(r"(\w+)[-\u2010\u00ad]$")
_FIRST_WORD = re.compile(r"\w+")
_WORD = re.compile(r"\w+(?:-\w+)?")
_ENDS_SENTENCE = re.compile(r"[.!?:;…。！？]['\"”’)\]]*$")
# kana and Chinese characters
_NO_SPACES = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_LIGATURES = {0xFB00 + n: text for n, text in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))}


def pdf_text(file: File, encoding: str | None = None) -> str:
    """raises   Unreadable for a damaged, encrypted or scanned file; FtError without pypdf"""
    pages: list[str] = []
    with named(file.place, "a PDF"):
        import pypdf

        logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it reads past
        reader = pypdf.PdfReader(io.BytesIO(file.data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(file.place, "a PDF without a password", "an encrypted one", "Save it without.")
        for page in reader.pages:
            pages.append(page.extract_text())
            file.allowance.take(len(pages[-1]))
    if pages and not any(page.strip() for page in pages):
        found = f"{len(pages)} pages without any, perhaps scanned"
        raise Unreadable(file.place, "a PDF with text", found, "Recognise its text first (OCR).")
    return running_text(pages)


def running_text(pages: Sequence[str]) -> str:
    """Pages of lines as paragraphs with a blank line between them.

    A line at a page's edge goes if three pages have it, apart from a number that counts the pages (every page
    of a shorter file). A word cut at a line's end is put together, unless the file writes it with its hyphen
    elsewhere.
    """
    lines = [[line.rstrip() for line in page.translate(_LIGATURES).split("\n")] for page in pages]
    kept = _without_edges(lines)
    text = "\n".join(line for page in kept for line in page)
    words = frozenset(_WORD.findall(text.casefold()))
    lengths = sorted(len(line) for page in kept for line in page if line.strip())
    usual = lengths[int(0.8 * (len(lengths) - 1))] if lengths else 0
    return "\n\n".join(_paragraphs(kept, SHORT_LINE * usual, words))


def _without_edges(pages: Sequence[list[str]]) -> list[list[str]]:
    pages = [_trimmed(page) for page in pages]
    pages_with: Counter[tuple[str, int]] = Counter()
    for number, page in enumerate(pages, start=1):
        edges = (*page[:EDGE_LINES], *page[-EDGE_LINES:])
        pages_with.update({key for line in edges for key in _keys(line, number)})
    filled = sum(bool(page) for page in pages)
    least = min(REPEATED_PAGES, max(2, filled))
    repeated = {key for key, count in pages_with.items() if count >= least}
    if filled == len(pages) == pages_with["#", 0]:  # also of a single page
        repeated.add(("#", 0))
    found = []
    for number, page in enumerate(pages, start=1):
        for _ in range(EDGE_LINES):
            page = _trimmed(page)
            if page and repeated.intersection(_keys(page[0], number)):
                page = page[1:]
            if page and repeated.intersection(_keys(page[-1], number)):
                page = page[:-1]
        found.append(_trimmed(page))
    return found


def _keys(line: str, page: int) -> Iterator[tuple[str, int]]:
    """What a line at a page's edge can have in common with those of other pages.

    Its words; and, where it has numbers, its words with how far each is from the page's: `Page 3 of 10`
    counts the pages, `Chapter 3` hardly ever does.
    """
    line = " ".join(line.casefold().split())
    yield line, 0
    shape = _NUMBER.sub("#", line)
    for number in _NUMBER.findall(line):
        value = int(number) if number.isdecimal() else _ROMAN.get(number)
        if value is not None:
            yield shape, value - page


def _trimmed(page: list[str]) -> list[str]:
    """Without blank lines at its ends."""
    filled = [number for number, line in enumerate(page) if line.strip()]
    return page[filled[0] : filled[-1] + 1] if filled else []


def _paragraphs(pages: Iterable[list[str]], short: float, words: frozenset[str]) -> Iterator[str]:
    so_far: list[str] = []  # lines, each with the space that it may need before it
    ends = False
    for page in pages:
        for place, line in enumerate(page):
            if not line.strip():
                ends = ends or place > 0
                continue
            if so_far and (ends or _BULLET.match(line)):
                yield "".join(so_far)
                so_far = []
            _append(so_far, line.strip(), words)
            ends = len(line) < short and not _HYPHENATED.search(line)
        # a paragraph goes on over the page, unless its last line was short or ended a sentence
        ends = ends or bool(so_far and _ENDS_SENTENCE.search(so_far[-1]))
    if so_far:
        yield "".join(so_far)


def _append(so_far: list[str], line: str, words: frozenset[str]) -> None:
    """Add a line to a paragraph; a hyphen at the end of the line before may go."""
    if not so_far:
        so_far.append(line)
        return
    cut = _HYPHENATED.search(so_far[-1])
    head = _FIRST_WORD.match(line)
    if cut and head and line[0].islower():
        whole = f"{cut[1]}{head[0]}".casefold()
        is_compound = whole not in words and f"{cut[1]}-{head[0]}".casefold() in words
        keeps = is_compound and not so_far[-1].endswith("\u00ad")
        if not keeps:
            so_far[-1] = so_far[-1][:-1]
        so_far.append(line)
    elif _NO_SPACES.match(so_far[-1][-1]) and _NO_SPACES.match(line[0]):
        so_far.append(line)
    else:
        so_far.append(f" {line}")
