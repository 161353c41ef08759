"""Bytes to text: UTF-8 or the encoding that was asked for, decoded strictly; another one is named."""

from __future__ import annotations

import codecs
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from mmap import mmap
from pathlib import PurePath

from ft_toolkit.errors import Unreadable
from ft_toolkit.recipe_values import codec_name

_SAMPLE_BYTES = 2**20
_LEAST_SHARE = 0.2  # of the characters beyond ASCII that have to be among a language's most frequent ones
_WESTERN = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœšžÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝŒŠŽ“”‘’„‚–—…•·«»‹›¿¡€£¥¢°ºª§¶©®™±×÷½¼¾²³¹µ¬\xa0"
)
_HIRAGANA = "のにはをたがでてとしれさいるすなかっくもりまこだ、。"
_CHINESE = "的一是不了在人有我他上大为中到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所，。"
_TAIWANESE = "的一是不了在人有我他上大為中到說國和地也子時道出而要於就下得可你年生自會那後能對著事其裡所，。"
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9._:-]+)", re.IGNORECASE)
# what browsers read under these names (the WHATWG's Encoding Standard)
_SUPERSETS = {
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "us-ascii": "cp1252",
}


@dataclass(frozen=True)
class Encoding:
    """An encoding in use before UTF-8, and what its text looks like."""

    codec: str  # as Python and corpus.encoding name it
    iconv: str
    said: str
    frequent: frozenset[str]  # characters that make up much of a text in it
    is_dense: bool = False  # most letters of its text are beyond ASCII, or it is another encoding's


ENCODINGS = (
    Encoding(
        "cp949",
        "CP949",
        "CP949 (or EUC-KR), Korean",
        frozenset("이다는을의에가하고지로기사어도나은시리인를한서대자"),
    ),
    Encoding("cp932", "CP932", "Shift-JIS, Japanese", frozenset(_HIRAGANA)),
    Encoding("euc_jp", "EUC-JP", "EUC-JP, Japanese", frozenset(_HIRAGANA)),
    Encoding("gb18030", "GB18030", "GB18030 (or GBK), Chinese", frozenset(_CHINESE)),
    Encoding("big5", "BIG5", "Big5, Chinese", frozenset(_TAIWANESE)),
    Encoding("cp1251", "CP1251", "Windows-1251, Cyrillic", frozenset("оеаинтсрвлк"), is_dense=True),
)
WINDOWS_1252 = Encoding("cp1252", "CP1252", "Windows-1252", _WESTERN)
UTF_16 = Encoding("utf-16", "UTF-16", "UTF-16", frozenset())


def decode(data: bytes | mmap, place: str, encoding: str | None = None) -> str:
    """The text of a file's bytes; a byte order mark is removed and nothing else is changed.

    encoding   a codec of Python; None: UTF-8
    raises     Unreadable naming the first byte that does not fit, or the encoding that it looks like
    """
    if encoding is not None:
        try:
            return codecs.decode(data, encoding).removeprefix("\ufeff")
        except UnicodeError as error:  # idna and others do not say where
            raise _other_byte(place, encoding, data[:], error, "Check corpus.encoding.") from None
    try:
        return codecs.decode(data, "utf-8-sig")
    except UnicodeDecodeError as error:
        data = data[:]  # of a mapped file its bytes
        found = looks_like(data, error.start)
        if found is None:
            fix = "Convert the file with iconv, or set corpus.encoding."
            raise _other_byte(place, "UTF-8", data, error, fix) from None
        file = shlex.quote(PurePath(place).name)
        fix = (
            f"Convert it: iconv -f {found.iconv} -t UTF-8 {file} > new.txt; or corpus.encoding: {found.codec}"
        )
        raise Unreadable(f"{place}, byte {error.start}", "UTF-8", found.said, fix) from None


def looks_like(data: bytes, start: int = 0) -> Encoding | None:
    """The encoding that a file which is no UTF-8 is most likely in; None where nothing is likely.

    start   the first byte that is no UTF-8
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and _decoded(data, UTF_16):
        return UTF_16
    if len(data) > _SAMPLE_BYTES:
        data = data[start : start + _SAMPLE_BYTES]
        data = data[: max(data.rfind(b"\n"), data.rfind(b" ")) + 1]  # neither is ever half a character
    shares = {encoding: _share(_decoded(data, encoding), encoding) for encoding in ENCODINGS}
    best = max(shares, key=lambda encoding: shares[encoding])
    if shares[best] >= _LEAST_SHARE:
        return best
    return WINDOWS_1252 if _share(_decoded(data, WINDOWS_1252), WINDOWS_1252) > 0.9 else None


def declared(data: bytes) -> str | None:
    """The encoding that the first kilobytes of an HTML file name, if Python has it."""
    match = _CHARSET.search(data)
    if match is None:
        return None
    name = match[1].decode("ascii").lower()
    try:
        return codec_name(_SUPERSETS.get(name, name))
    except ValueError:
        return None


def _decoded(data: bytes, encoding: Encoding) -> str:
    try:
        return data.decode(encoding.codec)
    except UnicodeDecodeError:
        return ""


def _share(text: str, encoding: Encoding) -> float:
    """How much of what is beyond ASCII is frequent in that encoding's language."""
    counts = Counter(text)
    beyond = sum(count for character, count in counts.items() if character > "\x7f")
    ascii_letters = sum(
        count for character, count in counts.items() if character < "\x7f" and character.isalpha()
    )
    if not beyond or (encoding.is_dense and beyond < ascii_letters):
        return 0.0
    if encoding is WINDOWS_1252 and beyond > ascii_letters:
        return 0.0
    return sum(counts[character] for character in encoding.frequent) / beyond


def _other_byte(place: str, wanted: str, data: bytes, error: UnicodeError, fix: str) -> Unreadable:
    start = error.start if isinstance(error, UnicodeDecodeError) else 0
    return Unreadable(f"{place}, byte {start}", wanted, f"0x{data[start : start + 1].hex()}", fix)
