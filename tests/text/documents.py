"""Documents that the tests write: real files of several makes, through the libraries that people use."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence

import pyarrow

TITLE = "Colds"
PARAGRAPHS = (
    "Drink plenty of water and rest until the fever has gone; most colds pass within a week or ten days.",
    "감기에는 물을 많이 마신다. 風邪 🙂 naïve café.",
    "Dose\tOne tablet",
)


def docx(paragraphs: Sequence[str] = PARAGRAPHS) -> bytes:
    """By python-docx: a heading, paragraphs, a table, and a page header that is no text."""
    import docx as python_docx

    document = python_docx.Document()
    document.sections[0].header.paragraphs[0].text = "HEADER"
    document.add_heading(TITLE)
    for paragraph in paragraphs[:-1]:
        document.add_paragraph(paragraph)
    first, second = paragraphs[-1].split("\t")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = first, second
    return _saved(document.save)


def odt(paragraphs: Sequence[str] = PARAGRAPHS) -> bytes:
    """By odfpy."""
    from odf.opendocument import OpenDocumentText
    from odf.table import Table, TableCell, TableRow
    from odf.text import H, P

    document = OpenDocumentText()
    document.text.addElement(H(outlinelevel=1, text=TITLE))
    for paragraph in paragraphs[:-1]:
        document.text.addElement(P(text=paragraph))
    table, row = Table(), TableRow()
    for text in paragraphs[-1].split("\t"):
        cell = TableCell()
        cell.addElement(P(text=text))
        row.addElement(cell)
    table.addElement(row)
    document.text.addElement(table)
    return _saved(document.save)


def html(paragraphs: Sequence[str] = PARAGRAPHS) -> bytes:
    """By hand, as web pages are."""
    *texts, row = paragraphs
    cells = "".join(f"<td>{cell}</td>" for cell in row.split("\t"))
    return (
        f"<!doctype html><html><head><title>no text</title><style>p {{}}</style></head><body><nav>Home</nav>"
        f"<h1>{TITLE}</h1><script>alert(1)</script>"
        + "".join(f"<p>\n  {text.replace(' ', chr(10) + '  ')}\n</p>" for text in texts)
        + f"<!-- no text --><table><tr>{cells}</tr></table></body></html>"
    ).encode()


def epub(chapters: Sequence[bytes] | None = None) -> bytes:
    """By hand, as the standard has it: the spine's order is not that of the files."""
    chapters = chapters if chapters is not None else [html()]
    items = "".join(
        f'<item id="c{n}" href="text/{len(chapters) - n}%20x.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    files = {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": b'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        b'<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        "OEBPS/book.opf": (
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
        ).encode(),
    }
    for number, chapter in enumerate(chapters):
        files[f"OEBPS/text/{len(chapters) - number} x.xhtml"] = chapter
    return zip_of(files)


def ipynb(paragraphs: Sequence[str] = PARAGRAPHS) -> bytes:
    """As Jupyter saves it: sources as lists of lines, and outputs."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [TITLE]},
        *({"cell_type": "markdown", "metadata": {}, "source": text} for text in paragraphs[:-1]),
        {"cell_type": "code", "source": paragraphs[-1], "outputs": [{"text": "no text"}], "metadata": {}},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def rst(paragraphs: Sequence[str] = PARAGRAPHS) -> bytes:
    *texts, row = paragraphs
    body = "\n\n".join(texts)
    return f"{TITLE}\n=====\n\n.. no text\n\n{body}\n\n{row.expandtabs(1)}\n".encode()


def pdf(pages: Sequence[str], header: str = "", footer: str = "", width: int = 100) -> bytes:
    """By fpdf2: text set in lines of `width` millimetres, with a header and a footer on each page."""
    from fpdf import FPDF

    class Pages(FPDF):
        def header(self) -> None:
            self.cell(0, 10, header, new_x="LMARGIN", new_y="NEXT")

        def footer(self) -> None:
            self.set_y(-15)
            self.cell(0, 10, footer.format(self.page_no()))

    document = Pages()
    document.set_font("helvetica", size=11)
    for page in pages:
        document.add_page()
        document.multi_cell(width, 6, page, align="L")
    return bytes(document.output())


def plain_pdf(lines: Sequence[Sequence[str]]) -> bytes:
    """By hand: a page for each list of lines, uncompressed, in the PDF of 1993."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for page in lines:
        kids.append(f"{len(objects) + 1} 0 R")
        shown = " ".join(f"({line}) Tj T*" for line in page)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R"
            " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Courier >> >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = "%PDF-1.1\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return f"{out}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode("latin-1")


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(data, bytes):
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return buffer.getvalue()


def zst(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


MADE: dict[str, Callable[[], bytes]] = {
    ".docx": docx,
    ".odt": odt,
    ".html": html,
    ".epub": epub,
    ".ipynb": ipynb,
    ".rst": rst,
    ".pdf": lambda: pdf([PARAGRAPHS[0]]),
}
