"""The text of documents that are a zip of XML files: EPUB, Word, OpenDocument.

A blank line separates paragraphs, a tab the cells of a row. Pictures, comments, tracked deletions and the
headers of pages are left out.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from ft_toolkit.errors import Unreadable
from ft_toolkit.text.html import html_text
from ft_toolkit.text.packed import Allowance, Data, File, named, zip_file, zip_member


def _xml(data: Data) -> Any:
    from lxml import etree

    # no entity is expanded, nothing is fetched, and what is nested deeper than 256 is refused
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def _name(element: Any) -> str:
    """An element's name without its namespace: Word has two sets of them."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _value(element: Any, attribute: str) -> str:
    return next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == attribute), "")


def epub_text(file: File, encoding: str | None = None) -> str:
    """The chapters of a book in the order of its spine."""
    with named(file.place, "an EPUB book"):
        return "\n\n".join(text for text in _chapters(file) if text)


def _chapters(file: File) -> Iterator[str]:
    archive = zip_file(file)
    container = _xml(zip_member(archive, "META-INF/container.xml", file.allowance))
    package = next(
        _value(element, "full-path") for element in container.iter() if _name(element) == "rootfile"
    )
    book = _xml(zip_member(archive, package, file.allowance))
    items = {_value(e, "id"): e for e in book.iter() if _name(e) == "item"}
    locked = _locked(archive, file.allowance)
    for reference in book.iter():
        item = items.get(_value(reference, "idref")) if _name(reference) == "itemref" else None
        if item is None or "nav" in _value(item, "properties").split():
            continue
        href = unquote(_value(item, "href"))
        chapter = posixpath.normpath(posixpath.join(posixpath.dirname(package), href))
        if chapter in locked:
            raise Unreadable(file.place, "a book without DRM", f"{chapter}, encrypted", "Leave it out.")
        data = zip_member(archive, chapter, file.allowance)
        yield html_text(File(file.name, f"{file.place}/{chapter}", data, file.allowance))


def _locked(archive: zipfile.ZipFile, allowance: Allowance) -> frozenset[str]:
    if "META-INF/encryption.xml" not in archive.namelist():
        return frozenset()
    listed = _xml(zip_member(archive, "META-INF/encryption.xml", allowance))
    return frozenset(unquote(_value(e, "URI")) for e in listed.iter() if _name(e) == "CipherReference")


def docx_text(file: File, encoding: str | None = None) -> str:
    """Paragraphs, tables, text boxes and notes of a Word document."""
    with named(file.place, "a Word document"):
        return _docx(file)


def _docx(file: File) -> str:
    archive = zip_file(file)
    relations = _xml(zip_member(archive, "_rels/.rels", file.allowance))
    main = next(
        _value(r, "Target") for r in relations.iter() if _value(r, "Type").endswith("/officeDocument")
    ).lstrip("/")
    names = [main, *(f"{posixpath.dirname(main)}/{notes}.xml" for notes in ("footnotes", "endnotes"))]
    present = set(archive.namelist())
    blocks: list[str] = []
    for name in names:
        if name == main or name in present:
            _word_blocks(_xml(zip_member(archive, name, file.allowance)), blocks)
    return "\n\n".join(blocks)


_WORD_SKIPPED = frozenset(("moveFrom", "Fallback", "rPr", "pPr", "sectPr", "tblPr", "tcPr", "trPr"))
_WORD_INLINE = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011"}


def _word_blocks(element: Any, blocks: list[str]) -> None:
    name = _name(element)
    if name == "p":
        own: list[str] = []
        _word_inline(element, own, blocks)
        if text := "".join(own).strip():
            blocks.append(text)
    elif name == "tbl":
        _table(element, blocks, _word_blocks, "tr", ("tc",))
    elif name not in _WORD_SKIPPED:
        for child in element:
            _word_blocks(child, blocks)


def _word_inline(element: Any, own: list[str], blocks: list[str]) -> None:
    for child in element:
        name = _name(child)
        if name == "t":
            own.append(child.text or "")
        elif name in _WORD_INLINE:
            own.append(_WORD_INLINE[name])
        elif name in ("p", "tbl"):  # of a text box that is anchored in this paragraph
            _word_blocks(child, blocks)
        elif name not in _WORD_SKIPPED:
            _word_inline(child, own, blocks)


def odt_text(file: File, encoding: str | None = None) -> str:
    """Paragraphs, lists, tables and notes of an OpenDocument text."""
    with named(file.place, "an OpenDocument text"):
        return _odt(file)


def _odt(file: File) -> str:
    archive = zip_file(file)
    content = _xml(zip_member(archive, "content.xml", file.allowance))
    blocks: list[str] = []
    for body in content.iter():
        if _name(body) == "body":
            _open_blocks(body, blocks)
    return "\n\n".join(blocks)


_OPEN_SKIPPED = frozenset(("tracked-changes", "annotation", "annotation-end", "note-citation", "forms"))
_OPEN_INLINE = {"tab": "\t", "line-break": "\n"}


def _open_blocks(element: Any, blocks: list[str]) -> None:
    name = _name(element)
    if name in ("p", "h"):
        own, inner = [element.text or ""], list[str]()
        _open_inline(element, own, inner)
        blocks += [text for text in ("".join(own).strip(), *inner) if text]
    elif name == "table":
        _table(element, blocks, _open_blocks, "table-row", ("table-cell", "covered-table-cell"))
    elif name not in _OPEN_SKIPPED:
        for child in element:
            _open_blocks(child, blocks)


def _open_inline(element: Any, own: list[str], inner: list[str]) -> None:
    for child in element:
        name = _name(child)
        if name in _OPEN_INLINE:
            own.append(_OPEN_INLINE[name])
        elif name == "s":
            count = _value(child, "c") or "1"
            own.append(" " * min(int(count), 1000))
        elif name in ("note-body", "text-box"):
            _open_blocks(child, inner)
        elif name and name not in _OPEN_SKIPPED:
            own.append(child.text or "")
            _open_inline(child, own, inner)
        own.append(child.tail or "")


def _table(
    table: Any, blocks: list[str], read: Callable[[Any, list[str]], None], row: str, cells: tuple[str, ...]
) -> None:
    """A table as one block: a line a row, its cells with a tab between them."""
    lines = []
    for each in table.iter():
        if _name(each) == row and next(a for a in each.iterancestors() if a.tag == table.tag) is table:
            found: list[str] = []
            for cell in each:
                if _name(cell) in cells:
                    inside: list[str] = []
                    for child in cell:
                        read(child, inside)
                    found.append(" ".join(" ".join(inside).split()))
            if any(found):
                lines.append("\t".join(found))
    if lines:
        blocks.append("\n".join(lines))
