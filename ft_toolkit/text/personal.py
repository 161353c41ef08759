"""Personal data by pattern: e-mail, telephone, identity, card and record numbers; US and Korean forms.

Patterns find what has a form. Names, addresses and whatever else tells who someone is have none: a text
without a match is not anonymous. docs/formats.md states precision and recall as measured.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Found:
    """One match; `start` and `end` are its place in the text."""

    kind: str
    start: int
    end: int
    text: str

    @property
    def masked(self) -> str:
        """Its form without its content: all letters and digits but the first are covered."""
        return self.text[:1] + re.sub(r"\w", "•", self.text[1:])


@dataclass(frozen=True)
class _Pattern:
    kind: str
    form: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool] = lambda match: True


def _is_birthday(year: str, month: str, day: str) -> bool:
    try:
        return date(int(year), int(month), int(day)) is not None
    except ValueError:
        return False


def _is_resident(match: re.Match[str]) -> bool:
    """A Korean resident or foreigner number: a birthday, and the digit that says century and sex.

    Its last digit has been no check sum since October 2020.
    """
    digits = re.sub(r"\D", "", match[0])
    century = {"9": 18, "0": 18, "1": 19, "2": 19, "5": 19, "6": 19}.get(digits[6], 20)
    return _is_birthday(f"{century}{digits[:2]}", digits[2:4], digits[4:6])


def _is_card(match: re.Match[str]) -> bool:
    """Luhn's check sum, ISO/IEC 7812."""
    digits = [int(digit) for digit in re.sub(r"\D", "", match[0])][::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


_DASH = "[-\u2010-\u2015.]"
_APART = f"(?:{_DASH}|[ \u00a0]?)"
# not inside a longer number, a decimal or a Latin word; Korean particles follow without a space
_BEGIN, _END = r"(?<![A-Za-z0-9_.+/=-])", r"(?![A-Za-z0-9_/=]|[-.,:]\d)"
_LABEL = (
    r"(?:MRN|medical record|patient(?: id)?|record|chart|case|account|acct|policy|member(?:ship)?|passport"
    r"|licen[cs]e|SSN|social security|phone|tel|mobile|cell|fax"
    r"|등록번호|환자번호|환자등록번호|차트번호|병록번호|여권번호|계좌번호|회원번호|접수번호|주민등록번호|주민번호|전화|전화번호|휴대폰|연락처)"
)
_LABEL_BEGINS = "acflmpst등환차병여계회접주전휴연r"  # tried first: most words begin otherwise
_PHONES = (
    # Korea: mobile, Seoul, the provinces, internet; with or without the country code
    rf"(?:\+82{_APART}\(?0?\)?|\(?0)(?:1[016-9]|2|[3-6][1-5]|70|50\d?)\)?{_APART}"
    rf"\d{{3,4}}{_APART}\d{{4}}",
    # North America: an area code and an exchange begin with 2 to 9
    rf"(?:\+?1{_APART})?\([2-9]\d\d\)[ ]?[2-9]\d\d{_APART}\d{{4}}",
    r"(?:\+?1[-. ])?[2-9]\d\d(?P<dash>[-.\u2010-\u2015 ])[2-9]\d\d(?P=dash)\d{4}",
    r"\+1[2-9]\d\d[2-9]\d{6}",
    # elsewhere only with a country code
    r"\+(?!1|82)[2-9]\d{0,2}(?:[-. ]?\(?\d{1,4}\)?){2,5}",
)
# in this order: what a match covers is not looked at again
_PATTERNS = (
    _Pattern(
        "e-mail",
        re.compile(
            r"(?<![A-Za-z0-9.+%_-])[A-Za-z0-9.+%_-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9-])"
        ),
    ),
    _Pattern(
        "resident number",
        re.compile(rf"{_BEGIN}\d{{6}}(?:[ ]?[-\u2010-\u2015][ ]?)?[0-9]\d{{6}}{_END}"),
        _is_resident,
    ),
    _Pattern(
        "card",
        re.compile(
            rf"{_BEGIN}(?:[3-6]\d{{3}}(?P<gap>[ -]?)\d{{4}}(?P=gap)\d{{4}}(?P=gap)\d{{4}}"
            rf"|3[47]\d\d[ -]?\d{{6}}[ -]?\d{{5}}){_END}"
        ),
        _is_card,
    ),
    _Pattern(
        "social security number",
        re.compile(
            rf"{_BEGIN}(?!000|666|9)\d{{3}}(?P<dash>[-\u2010-\u2015 ])(?!00)\d\d(?P=dash)(?!0000)\d{{4}}"
            rf"{_END}"
        ),
    ),
    *(_Pattern("phone", re.compile(f"{_BEGIN}{form}{_END}")) for form in _PHONES),
    _Pattern(
        "record number",
        re.compile(
            rf"(?<![A-Za-z0-9가-힣])(?=[{_LABEL_BEGINS}]){_LABEL}(?:[ ]?(?:number|num|no|id|#))?\.?[ ]?"
            r"(?:[:#=]|is|은|는)?[ ]{0,3}#?"
            rf"(?=(?:[A-Z-]{{0,4}}\d){{5}})(?P<number>[A-Z]{{0,3}}-?\d[\dA-Z-]{{3,14}}){_END}",
            re.IGNORECASE,
        ),
    ),
)
# patterns are tried around these alone: five digits with no more than signs between them, or an @
_DIGITS, _AT = re.compile(r"\d(?:[^\w\n]{0,3}\d){4}"), re.compile("@")
# and so many characters before and after them: a label is shorter, and so are what is left of a number
# after five digits and the longest host
_BEFORE, _AFTER_DIGITS, _AFTER_AT = 80, 64, 320
# where alone a number without a label can begin: all but those with a country code have nine digits
_NUMBER = re.compile(rf"{_BEGIN}(?=\+\d|\(?\d(?:[^\w\n]{{0,3}}\d){{8}})")


def find(text: str) -> list[Found]:
    """Every match in a text, in its order; no two overlap."""
    found: list[Found] = []  # by their place
    addresses, numbers = _windows(text, _AT, _AFTER_AT), _windows(text, _DIGITS, _AFTER_DIGITS)
    begins = [(match.start(), end) for begin, end in numbers for match in _NUMBER.finditer(text, begin, end)]
    for pattern in _PATTERNS:
        if pattern.kind == "e-mail":
            matches = _searched(pattern.form, text, addresses)
        elif pattern.kind == "record number":
            matches = _searched(pattern.form, text, numbers)
        else:
            matches = _begun(pattern.form, text, begins)
        for match in matches:
            group = "number" if "number" in match.re.groupindex else 0
            start, end = match.span(group)
            place = bisect_left(found, start, key=lambda each: each.start)
            is_free = (place == 0 or found[place - 1].end <= start) and (
                place == len(found) or end <= found[place].start
            )
            if is_free and pattern.holds(match):
                found.insert(place, Found(pattern.kind, start, end, match[group]))
    return found


def _searched(form: re.Pattern[str], text: str, windows: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    for window in windows:
        yield from form.finditer(text, *window)


def _begun(form: re.Pattern[str], text: str, begins: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    """Matches at these places, each of which has an end that no match goes beyond."""
    last = 0
    for begin, end in begins:
        if begin >= last and (match := form.match(text, begin, end)):
            yield match
            last = match.end()


def _windows(text: str, seed: re.Pattern[str], after: int) -> list[tuple[int, int]]:
    """Where a pattern has to be tried: begin and end of each stretch around the seeds."""
    found: list[tuple[int, int]] = []
    begin, end = 0, -1
    for match in seed.finditer(text):
        if match.start() - _BEFORE > end:
            if end >= 0:
                found.append((begin, end))
            begin = max(0, match.start() - _BEFORE)
        end = match.end() + after
    return [*found, (begin, end)] if end >= 0 else found


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with [E-MAIL], [PHONE] … in the place of each match, and how many there were of each kind."""
    found = find(text)
    return "".join(_pieces(text, found)), Counter(each.kind for each in found)


def _pieces(text: str, found: list[Found]) -> Iterator[str]:
    end = 0
    for each in found:
        yield text[end : each.start]
        yield f"[{each.kind.upper()}]"
        end = each.end
    yield text[end:]
