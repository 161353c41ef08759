"""Licences: what the base and the text allow for what was made from them.

The terms follow the licences' own texts. Whether weights are an adaptation of their training text is
disputed; we take the stricter reading, and --i-have-the-rights overrides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from ft_toolkit.errors import FtError
from ft_toolkit.references import BaseReference, TextReference

Terms = Literal["permissive", "share-alike", "non-commercial", "no-derivatives"]
OWN = "own"  # the publisher wrote the text

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses whose terms are known here.
TERMS: dict[str, Terms] = {
    **dict.fromkeys(
        (
            "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "pddl",
            "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by", "afl-3.0", "bsl-1.0", "zlib",
            "wtfpl", "cdla-permissive-1.0", "cdla-permissive-2.0",
        ),
        "permissive",
    ),
    **dict.fromkeys(
        ("cc-by-sa-3.0", "cc-by-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "odbl", "gfdl"),
        "share-alike",
    ),
    **dict.fromkeys(
        (
            "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
            "cc-by-nc-sa-4.0",
        ),
        "non-commercial",
    ),
    **dict.fromkeys(
        ("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        "no-derivatives",
    ),
}  # fmt: skip

STARTERS, PACKAGES = "apache-2.0", "cc0-1.0"  # what ships inside ft-toolkit
# What the checkpoints named in the docs and the gallery are licensed under, by their own cards, by Hub id.
KNOWN_BASES = {
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "mit"),
    "openai-community/gpt2*": "mit",
    "distilgpt2": "apache-2.0",
    "distilbert/*": "apache-2.0",
    "google-bert/*": "apache-2.0",
    "FacebookAI/roberta-*": "mit",
    "FacebookAI/xlm-roberta-*": "mit",
    "skt/kogpt2-base-v2": "cc-by-nc-sa-4.0",
    "klue/*": "cc-by-sa-4.0",
}


@dataclass(frozen=True)
class Source:
    """Something that the published weights were made from."""

    kind: Literal["base", "corpus"]
    name: str
    license: str | None  # None: not stated


@dataclass(frozen=True)
class Licence:
    """The licence that the card states, and what it rests on."""

    id: str
    sources: tuple[Source, ...]
    has_the_rights: bool  # stated by the publisher, whatever the sources' licences say


def licence_of_base(base: BaseReference) -> str | None:
    """The licence of a base that this toolkit knows; a folder's name proves nothing."""
    if base.kind == "starter":
        return STARTERS
    known = (licence for pattern, licence in KNOWN_BASES.items() if fnmatchcase(base.place, pattern))
    return next(known, None) if base.kind == "hub" else None


def licence_of_text(text: TextReference) -> str | None:
    """The licence of a text that this toolkit knows: its own."""
    return PACKAGES if text.kind == "package" else None


def decide(wanted: str | None, sources: tuple[Source, ...], *, has_the_rights: bool = False) -> Licence:
    """The licence of what is published: the wanted one if the sources allow it, else the strictest of theirs.

    raises   FtError for a licence that is unknown, and for a combination that forbids publishing
    """
    for source in sources:
        _check_known(source, has_the_rights)
    bound = [source for source in sources if source.license in TERMS and source.license != OWN]
    strict = [source for source in bound if TERMS[str(source.license)] != "permissive"]
    if wanted is None:
        base = next((source.license for source in bound if source.kind == "base"), None)
        wanted = strict[0].license if strict else base
    if wanted is None:
        raise FtError("licence", "one for the card", "none", "Say it: --license apache-2.0, for example.")
    if wanted not in TERMS:
        raise FtError("licence", "an identifier of the Hub", wanted, _spelling(wanted))
    if not has_the_rights:
        for source in strict:
            _check_allows(source, wanted)
    return Licence(wanted, sources, has_the_rights)


def _check_known(source: Source, has_the_rights: bool) -> None:
    if has_the_rights or source.license in TERMS or (source.kind == "corpus" and source.license == OWN):
        return
    option = f"--{source.kind}-license"
    where = f"licence of the {source.kind} {source.name}"
    if source.license is None:
        cure = f"Look it up and give {option} (own: you wrote it)."
        if source.kind == "base":
            cure = f"Look it up and give {option}."
        raise FtError(where, "to be known before publishing", "none stated", cure)
    cure = f"{_spelling(source.license)} Or read it and say --i-have-the-rights."
    raise FtError(where, "a licence with known terms", source.license, cure)


def _check_allows(source: Source, wanted: str) -> None:
    terms, where = TERMS[str(source.license)], f"licence {wanted}"
    made_from = f"{source.kind} {source.name} under {source.license}"
    if terms == "no-derivatives":
        raise FtError(where, "sources that may be adapted", made_from, "Keep it private, off the Hub.")
    shares_alike = terms == "share-alike" or "-sa-" in str(source.license)
    if shares_alike and wanted != source.license:
        raise FtError(where, "the same licence", f"{made_from}: share-alike", f"--license {source.license}")
    if terms == "non-commercial" and TERMS[wanted] not in ("non-commercial", "no-derivatives"):
        raise FtError(where, "non-commercial terms", f"{made_from}", f"--license {source.license}")


def _spelling(licence: str) -> str:
    near = get_close_matches(licence.lower(), TERMS, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else "Known: apache-2.0, mit, cc-by-4.0, cc-by-sa-4.0 …"
