"""Text that is no UTF-8 is named with the command that converts it, or read as it stands in its encoding."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora, read_source
from ft_toolkit.text.encodings import decode, looks_like

WRITTEN = [
    ("cp949", "감기에는 물을 많이 마시고 푹 쉰다. 열이 나면 해열제를 먹는다. Take 2 pills.\n"),
    ("cp949", "안녕하세요"),
    ("cp949", "똠방각하 펲시콜라는 뷁"),  # syllables that EUC-KR has not
    ("euc_kr", "韓醫學에서는 感氣라고 한다"),
    ("cp932", "風邪をひいたときは水をたくさん飲んで休みます。"),
    ("cp932", "カレーのレシピ: 玉ねぎを切る。"),
    ("shift_jis", "こんにちは"),
    ("euc_jp", "風邪をひいたときは水をたくさん飲んで休みます。"),
    ("gb18030", "感冒时要多喝水,好好休息。如果发烧,可以吃退烧药。"),
    ("big5", "感冒時要多喝水,好好休息。如果發燒,可以吃退燒藥。"),
    ("cp1252", "Naïve café, déjà vu: “crème brûlée” – 5 €"),
    ("cp1252", "Größe über Straße"),
    ("cp1252", "It’s fine"),
    ("cp1251", "При простуде нужно пить много воды и отдыхать."),
    ("utf-16", "감기 and a cold"),
]
SUPERSETS = {"euc_kr": "cp949", "shift_jis": "cp932"}


@pytest.mark.parametrize(("codec", "text"), WRITTEN)
def test_an_encoding_is_recognised_by_its_language(codec: str, text: str) -> None:
    found = looks_like(text.encode(codec))
    assert found is not None
    assert found.codec == SUPERSETS.get(codec, codec)


@pytest.mark.parametrize(("codec", "text"), WRITTEN)
def test_the_line_of_the_error_converts_the_file(tmp_path: Path, codec: str, text: str) -> None:
    path = tmp_path / "my memo.txt"
    path.write_bytes(text.encode(codec))
    with pytest.raises(Unreadable, match=r"my memo\.txt, byte \d+: expected UTF-8, found ") as caught:
        read_source(str(path))
    line = str(caught.value)
    command = line[line.index("iconv") : line.index(" > new.txt")]
    converted = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True).stdout
    assert converted.decode().removeprefix("\ufeff") == text


@pytest.mark.parametrize(("codec", "text"), WRITTEN)
def test_with_corpus_encoding_text_and_tables_are_read_as_they_stand(
    tmp_path: Path, codec: str, text: str
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(codec))
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"text": text + "!"}, ensure_ascii=False).encode(codec))
    (tmp_path / "c.tsv").write_bytes(f"text\n{text.strip()}?\n".encode(codec))
    reading = read_corpora(Corpus(source=str(tmp_path), encoding=codec))
    assert [document.text for document in reading.documents] == [text, text + "!", text.strip() + "?"]


@pytest.mark.parametrize("data", [b"abc\x81\xff\x00", b"\xff\xfe\xff", bytes(range(128, 256)) * 3])
def test_bytes_that_are_nobodys_text_are_named_by_the_first(data: bytes) -> None:
    with pytest.raises(Unreadable, match=r"x\.txt, byte \d+: expected UTF-8, found 0x"):
        decode(data, "x.txt")


def test_a_byte_that_the_asked_encoding_does_not_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("감기".encode("cp949") + b"\xff\xff")
    with pytest.raises(FtError, match=r"a\.txt, byte 4: expected cp949, found 0xff. Check corpus.encoding"):
        read_corpora(Corpus(source=str(tmp_path), encoding="cp949"))


@pytest.mark.parametrize("codec", ["idna", "punycode", "utf-7", "unicode_escape", "utf-32"])
def test_an_odd_encoding_names_the_file_too(tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"xn--\xff\xfe..\\x")
    with pytest.raises(FtError, match=r"a\.txt, byte \d+: expected "):
        read_corpora(Corpus(source=str(tmp_path), encoding=codec))


@pytest.mark.parametrize("charset", ["klingon", "zip", "hex", "undefined", "utf-8"])
def test_a_page_that_names_no_encoding_of_text_is_named_itself(tmp_path: Path, charset: str) -> None:
    (tmp_path / "a.html").write_bytes(f"<meta charset={charset}>".encode() + b"<p>\x81\xff\xfe\x8d")
    with pytest.raises(Unreadable, match=r"a\.html, byte \d+: expected "):
        read_source(str(tmp_path))


def test_a_large_file_is_recognised_where_its_first_other_byte_is() -> None:
    data = b"plain words\n" * 200_000 + "감기에는 물을 많이 마신다\n".encode("cp949") * 50_000
    with pytest.raises(Unreadable, match="CP949"):
        decode(data, "a.txt")


@pytest.mark.parametrize("name", ["klingon", "zip", "rot13", "undefined", "idna\0"])
def test_an_encoding_that_python_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an encoding such as cp949"):
        Corpus(source="notes", encoding=name)


@pytest.mark.parametrize(
    "text",
    [
        "감기에는 물을 마신다 ㅋㅋㅋ",
        "\u1100\u1161\u11b7\u1100\u1175",  # 감기 in jamo, as macOS decomposes it
        "感冒要多喝水。",
        "風邪のときは水を飲む。ﾊﾝｶｸ",
        "اشرب الماء \u200fعند الزكام\u0640",
        "🙂👩\u200d⚕️🏴\U000e0067\U000e0062\U000e007f",
        "ﬁ Å Å ½ ㈜ ﷺ \u00a0\u2028\u200b",
    ],
)
@pytest.mark.parametrize("ending", [".txt", ".md", ".jsonl", ".csv"])
def test_text_of_any_script_is_never_normalised(tmp_path: Path, text: str, ending: str) -> None:
    content = {".jsonl": json.dumps({"text": text}), ".csv": f"text\n{text}\n"}.get(ending, text)
    (tmp_path / f"a{ending}").write_bytes(content.encode())
    assert read_source(str(tmp_path)).documents[0].text.encode() == text.encode()
