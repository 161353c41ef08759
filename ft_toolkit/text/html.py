"""The text of a web page: what its browser would show, without scripts and menus."""

from __future__ import annotations

import re

from ft_toolkit.errors import Unreadable
from ft_toolkit.text.encodings import declared, decode
from ft_toolkit.text.packed import File, named

_BLANKS = re.compile(r"[ \t\n\r\f]+")  # what HTML calls white space: no-break spaces stay
_HTML_SKIPPED = frozenset(("head", "script", "style", "template", "noscript", "nav", "iframe", "svg", "math"))
_HTML_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|caption|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure|footer"
    "|form|h[1-6]|header|hr|html|main|ol|p|pre|section|summary|table|ul"
)
_HTML_LINES = frozenset(("li", "tr", "br", "option"))
_LINE, _PARAGRAPH = 1, 2  # line feeds between two texts


def html_text(file: File, encoding: str | None = None) -> str:
    """A page's text; in the encoding that the page names, unless it is UTF-8."""
    try:
        text = decode(file.data, file.place, encoding)
    except Unreadable:
        said = None if encoding else declared(file.data[:4096])
        if said is None:
            raise
        text = decode(file.data, file.place, said)
    with named(file.place, "an HTML page"):
        return _html(text)


def _html(text: str) -> str:
    from lxml import etree

    if not text.strip():
        return ""
    # huge_tree: elements may nest 2,048 deep, not 256
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True, remove_comments=True)
    root = etree.fromstring(text.encode(), parser)
    if any("depth" in fault.message for fault in parser.error_log):  # libxml2 drops what is nested deeper
        raise ValueError("elements nested too deep")
    if root is None:
        return ""
    flow, skipped, preformatted = _Flow(), 0, 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        tag = element.tag if isinstance(element.tag, str) else ""  # a processing instruction has none
        if event == "start":
            skipped += tag in _HTML_SKIPPED or not tag
            preformatted += tag == "pre"
            if not skipped:
                flow.break_before(tag)
                flow.add(element.text, preformatted > 0)
        else:
            if not skipped:
                flow.break_before(tag)
                if tag in ("td", "th"):
                    flow.cell()
            skipped -= tag in _HTML_SKIPPED or not tag
            preformatted -= tag == "pre"
            if not skipped:
                flow.add(element.tail, preformatted > 0)
    return flow.text()


class _Flow:
    """Text as it flows through inline elements, broken by blocks."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._break, self._ends_blank = 0, True

    def break_before(self, tag: str) -> None:
        self._break = max(
            self._break, _PARAGRAPH * (_HTML_BLOCKS.fullmatch(tag) is not None), _LINE * (tag in _HTML_LINES)
        )

    def cell(self) -> None:
        if self._parts and not self._break:
            self._parts.append("\t")
            self._ends_blank = True

    def add(self, text: str | None, is_preformatted: bool) -> None:
        text = text or ""
        if not is_preformatted:
            text = _BLANKS.sub(" ", text)
            if self._ends_blank or self._break:
                text = text.lstrip(" ")
        if not text:
            return
        if self._break and self._parts:
            self._parts.append("\n" * self._break)
        self._break = 0
        self._parts.append(text)
        self._ends_blank = text[-1] in " \n"

    def text(self) -> str:
        return re.sub(r"[ \t]+(?=\n|$)", "", "".join(self._parts)).strip()
