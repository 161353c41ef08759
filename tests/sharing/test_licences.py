"""What may be published under which licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.references import parse_base, parse_text
from ft_toolkit.sharing.licences import Source, decide, licence_of_base, licence_of_text


def sources(base: str | None, corpus: str | None) -> tuple[Source, Source]:
    return Source("base", "acme/base", base), Source("corpus", "notes", corpus)


@pytest.mark.parametrize(
    ("base", "corpus", "wanted", "decided"),
    [
        ("mit", "cc0-1.0", None, "mit"),
        ("apache-2.0", "own", None, "apache-2.0"),
        ("apache-2.0", "cc-by-4.0", "cc-by-4.0", "cc-by-4.0"),
        ("mit", "cc-by-sa-4.0", None, "cc-by-sa-4.0"),
        ("cc-by-nc-4.0", "cc0-1.0", None, "cc-by-nc-4.0"),
        ("mit", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0"),
    ],
)
def test_the_card_gets_the_strictest_licence_unless_a_fitting_one_is_named(
    base: str, corpus: str, wanted: str | None, decided: str
) -> None:
    assert decide(wanted, sources(base, corpus)).id == decided


@pytest.mark.parametrize(
    ("base", "corpus", "wanted", "reason"),
    [
        ("cc-by-nc-sa-4.0", "cc0-1.0", "mit", "the same licence, found base acme/base under cc-by-nc-sa"),
        ("cc-by-nc-4.0", "cc0-1.0", "apache-2.0", "non-commercial terms, found base acme/base under"),
        ("mit", "cc-by-nc-4.0", "mit", "non-commercial terms, found corpus notes under"),
        ("mit", "cc-by-nd-4.0", "mit", "sources that may be adapted, found corpus notes"),
        ("gpl-3.0", "cc-by-sa-4.0", None, "expected the same licence, found corpus notes under cc-by-sa-4.0"),
        (None, "cc0-1.0", "mit", "base acme/base: expected to be known before publishing, found none"),
        ("mit", None, "mit", "corpus notes: expected to be known before publishing, found none"),
        ("mit", "my own terms", "mit", "expected a licence with known terms, found my own terms"),
        ("mit", "cc0-1.0", "apache2", "an identifier of the Hub, found apache2. Did you mean apache-2.0?"),
        ("own", "cc0-1.0", "mit", "expected a licence with known terms, found own"),
    ],
)  # fmt: skip
def test_a_combination_that_forbids_publishing_is_refused_with_the_reason(
    base: str | None, corpus: str | None, wanted: str | None, reason: str
) -> None:
    with pytest.raises(FtError) as refused:
        decide(wanted, sources(base, corpus))
    assert reason in refused.value.line()


def test_who_states_the_rights_may_publish_and_the_statement_is_kept() -> None:
    decided = decide("mit", sources("cc-by-nc-4.0", None), has_the_rights=True)
    assert decided.id == "mit" and decided.has_the_rights
    assert [source.license for source in decided.sources] == ["cc-by-nc-4.0", None]
    with pytest.raises(FtError, match="expected one for the card, found none"):
        decide(None, sources(None, None), has_the_rights=True)


def test_kogpt2_is_known_to_be_non_commercial_and_the_bundled_texts_to_be_free() -> None:
    assert licence_of_base(parse_base("skt/kogpt2-base-v2@main")) == "cc-by-nc-sa-4.0"
    assert licence_of_base(parse_base("starter/gpt2")) == "apache-2.0"
    assert licence_of_base(parse_base("openai-community/gpt2-medium")) == "mit"
    assert licence_of_base(parse_base("gpt2-xl")) == "mit"
    assert licence_of_text(parse_text("package:italian-cooking")) == "cc0-1.0"


def test_a_licence_is_not_taken_from_a_name_that_merely_looks_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert licence_of_base(parse_base("somebody/gpt2")) is None
    assert licence_of_base(parse_base("gpt2-fans/their-own")) is None
    assert licence_of_text(parse_text("hf:package/italian-cooking")) is None
    assert licence_of_text(parse_text("package/italian-cooking")) is None
    (tmp_path / "distilgpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert licence_of_base(parse_base("distilgpt2")) is None
