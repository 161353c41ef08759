"""Documents made to harm: small files over which a library sits for minutes, or that fill the memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

_FONT = b"/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Courier >> >>"


def pdf_of(objects: Sequence[bytes]) -> bytes:
    """A file of these objects, numbered from 1; the first is the catalog."""
    out, places = bytearray(b"%PDF-1.5\n"), []
    for number, each in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def stream(data: bytes, keys: bytes = b"") -> bytes:
    packed = zlib.compress(data, 9)
    return b"<< /Length %d /Filter /FlateDecode %b >>\nstream\n%b\nendstream" % (len(packed), keys, packed)


def pages(kids: Sequence[int]) -> list[bytes]:
    """The catalog, and the pages that it lists."""
    listed = b" ".join(b"%d 0 R" % kid for kid in kids)
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%b] /Count %d >>" % (listed, len(kids)),
    ]


def page(contents: int, more: bytes = b"") -> bytes:
    """A page whose content is the object of this number."""
    frame = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << %b %b >> >>"
    return frame % (contents, _FONT, more)


def many_pages_of_one_content() -> bytes:
    words = stream(b"BT /F1 12 Tf " + b"(a) Tj " * 20_000 + b"ET")
    return pdf_of([*pages(range(4, 504)), words, *[page(3)] * 500])


def forms_in_forms() -> bytes:
    """Each of six forms shows the next one six times."""
    forms = []
    for number in range(5, 11):
        inner = b"/XObject << /X %d 0 R >>" % (number + 1)
        body = b"BT /F1 12 Tf " + b"(a) Tj " * 3000 + b"ET " + b"/X Do " * 6 * (number < 10)
        keys = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << %b %b >>" % (_FONT, inner)
        forms.append(stream(body, keys))
    return pdf_of([*pages([3]), page(4, b"/XObject << /X 5 0 R >>"), stream(b"/X Do " * 6), *forms])


def content_of_gigabytes() -> bytes:
    """Forty pages of 70 MB each, in 2.7 MB."""
    return pdf_of([*pages(range(3, 43)), *map(page, range(43, 83)), *[stream(b" " * 70_000_000)] * 40])


def a_page_tree_of_five_thousand_floors() -> bytes:
    floors = [b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % (number + 3) for number in range(5000)]
    return pdf_of([b"<< /Type /Catalog /Pages 2 0 R >>", *floors, page(2)])


def pages_in_a_circle() -> bytes:
    return pdf_of([*pages([3]), b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 1 >>"])


# beyond the limit of time
SLOW: dict[str, tuple[str, Callable[[], bytes]]] = {
    "many pages of one content": (".pdf", many_pages_of_one_content),
    "forms in forms": (".pdf", forms_in_forms),
    "markup that never ends": (".rst", lambda: b"*a " * 50_000),
    "a place named many times": (".rst", lambda: b".. _a:\n\n" * 20_000 + b"a_ " * 20_000),
    "unknown directives": (".rst", lambda: b".. flour::\n\n" * 20_000),
}
# refused by the libraries' own limits, or by Python's of recursion
REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a deep page tree": (".pdf", a_page_tree_of_five_thousand_floors),
    "pages in a circle": (".pdf", pages_in_a_circle),
    "lists in lists": (".rst", lambda: b"- " * 5000 + b"a"),
}
