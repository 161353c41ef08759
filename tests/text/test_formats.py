"""Documents of every format become the text that a person reads in them."""

from __future__ import annotations

import builtins
import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from documents import MADE, PARAGRAPHS, TITLE, docx, epub, html, odt, pdf, plain_pdf, zip_of

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.text import reader_process
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.pdf import running_text

WHOLE = "\n\n".join((TITLE, *PARAGRAPHS))
SENTENCES = (
    "Acetaminophen lowers a fever, and it is well-known to be safe for most people in the usual dose. "
    "Do not take more than four grams a day: a higher dose harms the liver, and the harm shows late. "
    "Call a doctor when a fever lasts for more than three days or when breathing becomes difficult."
)


def text_of(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    (document,) = read_source(str(folder / name)).documents
    return document.text


@pytest.mark.parametrize("ending", [".docx", ".odt", ".html", ".epub", ".ipynb"])
def test_a_document_is_its_paragraphs_and_rows_and_nothing_else(tmp_path: Path, ending: str) -> None:
    assert text_of(tmp_path, f"a{ending}", MADE[ending]()) == WHOLE


def test_restructured_text_loses_its_markup(tmp_path: Path) -> None:
    assert text_of(tmp_path, "a.rst", MADE[".rst"]()) == WHOLE.replace("\t", " ")
    assert text_of(tmp_path, "b.rst", b"*Salt* and ``pepper``, |x|.\n\n.. |x| replace:: oil\n") == (
        "Salt and pepper, oil."
    )


def test_restructured_text_with_faulty_or_foreign_markup_loses_no_text(tmp_path: Path) -> None:
    source = (
        "Title\n=====\n\nSalt *and oil.\n\nDeep\n~~~~\n\nWater.\n\nOther\n-----\n\nRice, :ref:`there`.\n\n"
        ".. toctree::\n   :maxdepth: 2\n\n   flour\n\n.. note:: Eggs.\n\n|nothing| [1]_ `link`_\n"
    )
    text = text_of(tmp_path, "a.rst", source.encode())
    for word in (
        "Title",
        "Salt",
        "and oil",
        "Deep",
        "Water",
        "Other",
        "Rice",
        "there",
        "flour",
        "Eggs",
        "nothing",
        "link",
    ):
        assert word in text


def test_restructured_text_includes_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a private key")
    source = f"Salt.\n\n.. include:: {tmp_path}/secret\n\n.. raw:: html\n   :file: {tmp_path}/secret\n"
    assert "private" not in text_of(tmp_path, "a.rst", source.encode())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Salt<br>and<b> oil</b>.", "Salt\nand oil."),
        ("<ul><li>Salt</li><li>Oil <i> and</i> water</li></ul>", "Salt\nOil and water"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("no&nbsp;break &amp; &eacute;", "no\u00a0break & é"),
        ("<p>one<p>two", "one\n\ntwo"),
        ("a<script>x</script>b<!-- x -->c", "abc"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a\tb\nc\td"),
        ("<div>" * 1500 + "deep" + "</div>" * 1500, "deep"),
    ],
)
def test_a_page_reads_as_a_browser_shows_it(tmp_path: Path, body: str, text: str) -> None:
    assert text_of(tmp_path, "a.html", body.encode()) == text


@pytest.mark.parametrize(("named", "codec"), [("euc-kr", "cp949"), ("Shift_JIS", "cp932"), ("gb2312", "gbk")])
def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path: Path, named: str, codec: str) -> None:
    text = {"cp949": "똠 감기", "cp932": "風邪①", "gbk": "感冒鎔"}[codec]
    data = f'<meta http-equiv="Content-Type" content="text/html; charset={named}"><p>{text}'.encode(codec)
    assert text_of(tmp_path, "a.htm", data) == text


def test_elements_nested_too_deep_for_the_parser_are_named_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<div>" * 100_000 + "deep")
    with pytest.raises(Unreadable, match=r"a\.html: expected an HTML page, found elements nested too deep"):
        read_source(str(tmp_path))


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    book = epub([html([f"Chapter {n}.", "a\tb"]) for n in range(3)])
    text = text_of(tmp_path, "a.epub", book)
    assert [line for line in text.split("\n") if line.startswith("Chapter")] == [
        "Chapter 0.",
        "Chapter 1.",
        "Chapter 2.",
    ]


def test_a_book_with_drm_is_named(tmp_path: Path) -> None:
    locked = b'<encryption><CipherReference URI="OEBPS/text/1%20x.xhtml"/></encryption>'
    files = {info: data for info, data in _members(epub()).items()} | {"META-INF/encryption.xml": locked}
    (tmp_path / "a.epub").write_bytes(zip_of(files))
    with pytest.raises(Unreadable, match=r"a\.epub: expected a book without DRM"):
        read_source(str(tmp_path))


def test_what_word_tracks_as_deleted_is_gone_and_notes_are_kept(tmp_path: Path) -> None:
    files = _members(docx())
    body = (
        '<w:p><w:r><w:t xml:space="preserve">Keep </w:t></w:r>'
        "<w:del><w:r><w:delText>lose</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>this</w:t><w:tab/><w:t>too</w:t><w:br/><w:t>below</w:t></w:r></w:ins>"
        "<w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom></w:p>"
    )
    main = files["word/document.xml"].decode().replace("<w:body>", f"<w:body>{body}")
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    note = f"<w:footnotes {namespace}><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnotes>"
    data = zip_of(files | {"word/document.xml": main.encode(), "word/footnotes.xml": note.encode()})
    assert text_of(tmp_path, "a.docx", data) == f"Keep this\ttoo\nbelow\n\n{WHOLE}\n\nA note."


def test_the_spaces_and_notes_of_an_opendocument_text_are_kept(tmp_path: Path) -> None:
    files = _members(odt())
    body = (
        '<text:p>a<text:s text:c="3"/>b<text:tab/>c<text:line-break/>d<text:note><text:note-citation>1'
        "</text:note-citation><text:note-body><text:p>A note.</text:p></text:note-body></text:note>e</text:p>"
        "<text:tracked-changes><text:p>lose</text:p></text:tracked-changes>"
    )
    content = files["content.xml"].decode().replace("<office:text>", f"<office:text>{body}")
    data = zip_of(files | {"content.xml": content.encode()})
    assert text_of(tmp_path, "a.odt", data) == f"a   b\tc\nde\n\nA note.\n\n{WHOLE}"


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- PDF ---------------------------------------------------------------------------------------------


def test_a_pdf_of_many_pages_is_running_text_without_headers_and_page_numbers(tmp_path: Path) -> None:
    sentences = SENTENCES.split(": ")
    pages = [f"{sentences[n % 2]}. {SENTENCES} This is leaf {'ABCD'[n]}." for n in range(4)]
    text = text_of(tmp_path, "a.pdf", pdf(pages, header="Guide to Colds", footer="Page {} of 4"))
    assert text == "\n\n".join(pages)


def test_a_sentence_goes_on_over_the_page(tmp_path: Path) -> None:
    lines = ["Drink plenty of water and rest until", "the fever has gone; most colds pass in"]
    more = ["a week or ten days, and need no other", "medicine."]
    text = text_of(tmp_path, "a.pdf", plain_pdf([["COLDS", *lines, "- 1 -"], ["COLDS", *more, "- 2 -"]]))
    assert text == (
        "Drink plenty of water and rest until the fever has gone; most colds pass in "
        "a week or ten days, and need no other medicine."
    )


def test_hyphens_at_the_ends_of_lines_close_and_those_of_compounds_stay() -> None:
    page = (
        "The well-known acet-\naminophen lowers fever as is well-\nknown after long-\nterm use "
        "aceta\u00ad\nminophen and ﬁne."
    )
    assert running_text([page]) == (
        "The well-known acetaminophen lowers fever as is well-known after longterm use acetaminophen and "
        "fine."
    )


@pytest.mark.timeout(30)
def test_a_pdf_of_forty_thousand_lines_takes_seconds() -> None:
    started = time.process_time()
    text = running_text(["\n".join(["a line of text that ends with no-"] * 40)] * 1000)
    assert len(text) > 1_000_000
    assert time.process_time() - started < 5


def test_short_lines_end_paragraphs_and_bullets_begin_them() -> None:
    long = "A line that is as long as the others of the page are, or so"
    page = f"Heading\n{long}\n{long}\nand ends.\n{long}\n• one\n• two"
    assert running_text([page]).split("\n\n") == [
        "Heading",
        f"{long} {long} and ends.",
        long,
        "• one",
        "• two",
    ]


def test_lines_of_chinese_and_japanese_join_without_a_space() -> None:
    assert running_text(["感冒时要多喝水好好休息\n如果发烧可以吃退烧药。"]) == (
        "感冒时要多喝水好好休息如果发烧可以吃退烧药。"
    )


def test_numbers_that_count_the_pages_go_and_those_of_chapters_stay() -> None:
    bodies = ["Salt is dry.", "Oil is wet.", "Rice is white.", "Flour is fine.", "Tea is hot."]
    pages = [
        f"{body}\n{numeral}" for body, numeral in zip(bodies, ("iii", "iv", "v", "vi", "vii"), strict=True)
    ]
    assert running_text(pages).split("\n\n") == bodies
    pages = [f"Chapter {n // 2}\n{body}\np. {n + 7}/12" for n, body in enumerate(bodies)]
    text = running_text(pages)
    assert [f"Chapter {n // 2}" in text for n in range(5)] == [True] * 5
    assert "/12" not in text


def test_a_line_that_two_of_many_pages_share_stays() -> None:
    pages = [f"Salt.\nText {word}." if n < 2 else f"Text {word}." for n, word in enumerate("abcdef")]
    assert running_text(pages).count("Salt.") == 2


@pytest.mark.parametrize(
    ("page", "text"), [("Salt.\n1", "Salt."), ("1\nSalt.", "Salt."), ("Salt.\n2", "Salt. 2")]
)
def test_the_number_of_a_single_page_goes_and_another_number_stays(page: str, text: str) -> None:
    assert " ".join(running_text([page]).split()) == text


def test_a_scanned_pdf_is_named_and_not_read_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(plain_pdf([[], []]))
    with pytest.raises(Unreadable, match=r"a\.pdf: expected a PDF with text, found 2 pages without any"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(("password", "is_read"), [("", True), ("secret", False)])
def test_an_encrypted_pdf_is_read_where_it_asks_for_no_password(
    tmp_path: Path, password: str, is_read: bool
) -> None:
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf([PARAGRAPHS[0]])))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    if is_read:
        assert read_source(str(tmp_path)).documents[0].text == PARAGRAPHS[0]
    else:
        with pytest.raises(Unreadable, match="expected a PDF without a password, found an encrypted one"):
            read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("ending", "package"),
    [
        (".html", "lxml"),
        (".epub", "lxml"),
        (".docx", "lxml"),
        (".odt", "lxml"),
        (".rst", "docutils"),
        (".pdf", "pypdf"),
    ],
)
def test_a_missing_library_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, package: str
) -> None:
    (tmp_path / f"a{ending}").write_bytes(MADE[ending]())
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    # and for the process that reads PDF and reStructuredText
    (tmp_path / "missing").mkdir()
    fails = f'raise ModuleNotFoundError("No module named {package}", name="{package}")'
    (tmp_path / "missing" / f"{package}.py").write_text(fails)
    path = os.pathsep.join([str(tmp_path / "missing"), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    reader_process._PROCESS.close()
    with pytest.raises(
        FtError, match=rf"a{ending}: expected the package {package}.*ft-toolkit\[formats\]"
    ) as caught:
        read_source(str(tmp_path))
    assert not isinstance(caught.value, Unreadable)  # which would leave the file out without a word
    reader_process._PROCESS.close()
