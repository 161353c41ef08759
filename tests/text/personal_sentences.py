"""400 made sentences, 200 with personal data in ⟦⟧: what the patterns of text/personal.py are measured on.

python tests/text/personal_sentences.py prints precision and recall, and what was missed or wrongly found. One
hand wrote sentences and patterns, so expect less on real text. Every name and number is invented.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ft_toolkit.text.personal import find

MARK = re.compile(r"⟦(.*?)⟧")
ROUNDS = 5
NAMES = ("j.smith", "kim_mj", "maria.garcia+news", "o-brien22", "lee99")
HOSTS = ("gmail.com", "naver.com", "st-marys-hospital.org", "mail.uni-heidelberg.de", "example.co.kr")


def digits(draw: random.Random, count: int, first: str = "0123456789") -> str:
    return draw.choice(first) + "".join(draw.choice("0123456789") for _ in range(count - 1))


def email(draw: random.Random) -> str:
    return f"{draw.choice(NAMES)}@{draw.choice(HOSTS)}"


def us_phone(draw: random.Random, form: str) -> str:
    area, exchange, line = digits(draw, 3, "23456789"), digits(draw, 3, "23456789"), digits(draw, 4)
    return form.format(area, exchange, line)


def korean_phone(draw: random.Random, form: str) -> str:
    return form.format(digits(draw, 4, "23456789"), digits(draw, 4))


def ssn(draw: random.Random, dash: str = "-") -> str:
    area, group, serial = draw.randint(1, 665), draw.randint(1, 99), draw.randint(1, 9999)
    return f"{area:03d}{dash}{group:02d}{dash}{serial:04d}"


def resident(draw: random.Random, dash: str = "-") -> str:
    born = f"{draw.randint(40, 99)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}"
    return f"{born}{dash}{digits(draw, 7, '1256')}"


def card(draw: random.Random, form: str = "{}-{}-{}-{}") -> str:
    body = digits(draw, 15, "45")
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in body[::-2]]
    check = -(sum(doubled) + sum(int(digit) for digit in body[-2::-2])) % 10
    number = f"{body}{check}"
    return form.format(*(number[place : place + 4] for place in range(0, 16, 4)))


WITH: tuple[Callable[[random.Random], str], ...] = (
    # e-mail
    lambda r: f"Write to ⟦{email(r)}⟧ before Friday.",
    lambda r: f"Contact: ⟦{email(r)}⟧, or ask at the desk.",
    lambda r: f"문의는 ⟦{email(r)}⟧으로 보내 주세요.",
    lambda r: f"From: Jane Roe <⟦{email(r).upper()}⟧>",
    lambda r: f"(see mailto:⟦{email(r)}⟧).",
    lambda r: f"The results were sent to ⟦{email(r)}⟧ and ⟦{email(r)}⟧.",
    lambda r: f"Ask ⟦{r.choice(NAMES)} at gmail dot com⟧ about the samples.",
    # telephone, United States
    lambda r: f"Call ⟦{us_phone(r, '({}) {}-{}')}⟧ after noon.",
    lambda r: f"Her number is ⟦{us_phone(r, '{}-{}-{}')}⟧.",
    lambda r: f"Fax ⟦{us_phone(r, '{}.{}.{}')}⟧, ext. 12",
    lambda r: f"tel:⟦{us_phone(r, '+1 {} {} {}')}⟧",
    lambda r: f"Reach the nurse on ⟦{us_phone(r, '+1{}{}{}')}⟧ at night.",
    lambda r: f"Phone (home) ⟦{us_phone(r, '1-{}-{}-{}')}⟧; she is in from six.",
    lambda r: f"My phone: ⟦{us_phone(r, '{}{}{}')}⟧",
    lambda r: f"Leave a message at ⟦{digits(r, 3, '2345')}-{digits(r, 4)}⟧, please.",
    # telephone, Korea and elsewhere
    lambda r: f"연락처는 ⟦{korean_phone(r, '010-{}-{}')}⟧입니다.",
    lambda r: f"보호자 ⟦{korean_phone(r, '010{}{}')}⟧로 전화했다.",
    lambda r: f"휴대폰:⟦{korean_phone(r, '010 {} {}')}⟧",
    lambda r: f"병원 전화는 ⟦{korean_phone(r, '02-{}-{}')}⟧이다.",
    lambda r: f"부산 지점 ⟦{korean_phone(r, '(051) {}-{}')}⟧",
    lambda r: f"From abroad dial ⟦{korean_phone(r, '+82-10-{}-{}')}⟧.",
    lambda r: f"팩스 ⟦{korean_phone(r, '070.{}.{}')}⟧",
    lambda r: f"London office: ⟦+44 20 {digits(r, 4, '78')} {digits(r, 4)}⟧",
    lambda r: f"Praxis Dr. Weber, Tel. ⟦+49 (0)6221 {digits(r, 6, '1234')}⟧",
    lambda r: f"Ring ⟦020 {digits(r, 4, '78')} {digits(r, 4)}⟧ if you are in London.",
    # identity numbers
    lambda r: f"SSN ⟦{ssn(r)}⟧ was on the form.",
    lambda r: f"His social security number is ⟦{ssn(r)}⟧, he said.",
    lambda r: f"SSN: ⟦{ssn(r, '')}⟧",
    lambda r: f"The claimant (⟦{ssn(r, ' ')}⟧) signed.",
    lambda r: f"주민등록번호 ⟦{resident(r)}⟧",
    lambda r: f"환자 김OO(⟦{resident(r)}⟧)가 내원했다.",
    lambda r: f"주민번호는 ⟦{resident(r, '')}⟧이다.",
    lambda r: f"외국인등록번호 ⟦{resident(r, ' - ')}⟧ 확인",
    # cards and records
    lambda r: f"Paid with card ⟦{card(r)}⟧ in full.",
    lambda r: f"카드번호 ⟦{card(r, '{} {} {} {}')}⟧로 결제",
    lambda r: f"Charge ⟦{card(r, '{}{}{}{}')}⟧ monthly.",
    lambda r: f"MRN: ⟦{digits(r, 7)}⟧, admitted on Monday.",
    lambda r: f"Patient ID ⟦P{digits(r, 6)}⟧ reports pain.",
    lambda r: f"등록번호: ⟦{digits(r, 8)}⟧ 45세 남자",
    lambda r: f"Her passport no. is ⟦M{digits(r, 8)}⟧.",
)
WITHOUT: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"The patient was born on {r.randint(1, 28)}.{r.randint(1, 12)}.19{digits(r, 2)}.",
    lambda r: f"Blood pressure was {r.randint(100, 180)}/{r.randint(60, 99)} mmHg at 08:30.",
    lambda r: f"Take {r.randint(100, 900)}-{r.randint(1000, 2000)} mg daily for 10-14 days.",
    lambda r: f"ISBN 978-89-{digits(r, 4)}-{digits(r, 3)}-{digits(r, 1)} is out of print.",
    lambda r: f"ISBN: 0-{digits(r, 3)}-{digits(r, 5)}-{digits(r, 1)}",
    lambda r: f"doi:10.{digits(r, 4, '123')}/j.jbi.20{digits(r, 2)}.{digits(r, 5, '123')}",
    lambda r: f"PMID: {digits(r, 8, '123')}; PMCID: PMC{digits(r, 7, '3456')}",
    lambda r: f"ClinicalTrials.gov NCT0{digits(r, 7)}, phase {r.randint(1, 3)}.",
    lambda r: f"Aspirin (CAS 50-78-2) and paracetamol (CAS 103-90-2), {digits(r, 2, '23')} °C.",
    lambda r: f"The variant rs{digits(r, 7, '123')} of NM_000{digits(r, 3)}.6 was found.",
    lambda r: (
        f"In {r.randint(1900, 1999)}-{r.randint(2000, 2024)} it fell by {digits(r, 1)}.{digits(r, 2)} %."
    ),
    lambda r: f"Version {digits(r, 1)}.{digits(r, 2, '12')}.{digits(r, 3, '1')}-rc1 needs Python 3.11.7.",
    lambda r: f"The server answers at 192.168.{r.randint(0, 255)}.{r.randint(0, 255)}:8080.",
    lambda r: f"Population: {r.randint(1, 9)},{digits(r, 3)},{digits(r, 3)} people in 2020.",
    lambda r: f"총 {r.randint(1, 9)},{digits(r, 3)},{digits(r, 3)}원이 들었다.",
    lambda r: f"2024-0{r.randint(1, 9)}-{r.randint(10, 28)} 14:30에 회의가 있다.",
    lambda r: f"사업자등록번호 {digits(r, 3, '123')}-{digits(r, 2, '123')}-{digits(r, 5)}",
    lambda r: f"제{r.randint(1, 99)}조 제{r.randint(1, 9)}항 및 2010-{digits(r, 4, '1')}호 고시",
    lambda r: f"The order {digits(r, 3, '89')}-{digits(r, 7)}-{digits(r, 7)} has shipped.",
    lambda r: f"Part number {digits(r, 4)}-{digits(r, 3)}-{digits(r, 2)}, pack of {r.randint(2, 50)}",
    lambda r: f"Coordinates {r.randint(10, 80)}.{digits(r, 6)}, -{r.randint(10, 99)}.{digits(r, 6)}",
    lambda r: f"The hash is {digits(r, 3)}e{digits(r, 9)}a{digits(r, 6)}bc{digits(r, 8)}.",
    lambda r: f"Follow @dr_{r.choice(('lee', 'kim', 'roe'))}{digits(r, 2)} and use #health{digits(r, 4)}.",
    lambda r: "npm install @scope/package@4.17.21 pulls lodash@4",
    lambda r: f"git clone git@github:team/repo{digits(r, 2)} works over ssh.",
    lambda r: f"Springfield, IL 6{digits(r, 4)}-{digits(r, 4)}",
    lambda r: (
        f"Pages {r.randint(100, 300)}-{r.randint(301, 999)} of volume {r.randint(1, 40)}, 19{digits(r, 2)}."
    ),
    lambda r: f"Psalm 119:{r.randint(1, 90)}-{r.randint(91, 176)} and 1 John 4:{r.randint(1, 9)}",
    lambda r: f"x = {digits(r, 3, '23')} - {digits(r, 3)} - {digits(r, 4)}",
    lambda r: f"3.14159{digits(r, 10)} is not a number to call.",
    lambda r: f"Lot {digits(r, 6)}-{digits(r, 7, '789')} expired last year.",
    lambda r: f"UPC {digits(r, 12)} and EAN {digits(r, 13, '9')}",
    lambda r: f"The case of {r.randint(1990, 2020)} and the record {r.randint(1990, 2020)} season",
    lambda r: (
        f"Policy {r.randint(2010, 2030)}: account for {digits(r, 3, '1')} beds in chart {r.randint(1, 9)}."
    ),
    lambda r: f"ICD-10 code E11.{digits(r, 2)}; LOINC {digits(r, 5, '12')}-{digits(r, 1)}",
    lambda r: f"Die Studie umfasste {r.randint(1000, 9999)} Personen in {r.randint(10, 99)} Zentren.",
    lambda r: f"Flight KE{digits(r, 3, '1')} leaves gate {digits(r, 2, '1')} at {r.randint(10, 23)}:45.",
    lambda r: f"Grant 5R01CA{digits(r, 6)}-{digits(r, 2)} paid for {r.randint(2, 5)} years.",
    lambda r: f"Mix 200-250-3000 units; repeat {r.randint(2, 9)} times.",
    lambda r: f"Unix time {digits(r, 10, '1')} is {r.randint(2001, 2030)}.",
)
assert len(WITH) == len(WITHOUT) == 200 // ROUNDS


def sentences(seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [make(draw) for _ in range(ROUNDS) for make in (*WITH, *WITHOUT)]


@dataclass
class Measured:
    found: int = 0  # matches that cover a marked piece
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    @property
    def precision(self) -> float:
        return self.found / (self.found + len(self.wrong))

    @property
    def recall(self) -> float:
        return self.found / (self.found + len(self.missed))


def measured(seed: int = 0) -> Measured:
    """A marked piece is found where one match covers all of it; a match that covers none is wrong."""
    result = Measured()
    for marked in sentences(seed):
        text, wanted, shift = MARK.sub(r"\1", marked), [], 0
        for match in MARK.finditer(marked):
            wanted.append((match.start() - shift, match.end() - shift - 2))
            shift += 2
        matches = [(each.start, each.end) for each in find(text)]
        for start, end in wanted:
            covered = any(first <= start and end <= last for first, last in matches)
            result.found += covered
            if not covered:
                result.missed.append(marked)
        for first, last in matches:
            if not any(start < last and first < end for start, end in wanted):
                result.wrong.append(f"{text[first:last]} in: {text}")
    return result


if __name__ == "__main__":
    total = measured()
    print(f"precision {total.precision:.3f}, recall {total.recall:.3f} on {len(sentences())} sentences")
    for what, lines in (("missed", total.missed), ("wrong", total.wrong)):
        for line, count in Counter(re.sub(r"\d", "0", line) for line in lines).most_common():
            print(f"{what} {count} times: {line}")
