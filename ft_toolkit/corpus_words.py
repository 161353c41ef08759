"""The words and bars of ft corpus."""

from __future__ import annotations

from ft_toolkit.text.look import Look, Source

REPEATED_SHOWN = 5
LITTLE_BYTES_A_TOKEN = 1.5  # as the verdict has it (docs/numbers.md)
MANY_UNKNOWN = 0.01
TRACE = 0.001  # of the letters
BAR = 30  # characters
ROW_CHARACTERS = 400


def lines(found: Look) -> list[str]:
    """What ft corpus prints."""
    sizes = f"{found.documents:,} documents, {_size(found.bytes)}, {found.characters:,} characters"
    said = [f"{found.source}: {sizes}"]
    if found.parts:
        said.append("parts       " + ", ".join(f"{count:,} {part}" for part, count in found.parts.items()))
    else:
        said.append(f"parts       none: {found.parts_fault}")
    said += [f"  {_source_words(each, found.sources)}" for each in found.sources]
    said.append(f"licence     {found.license or 'not stated; corpus.license says it'}")
    said += _left_out(found)
    said += _languages(found)
    said += _token_lines(found)
    said.append(f"lines       the longest has {found.longest_line[0]:,} characters ({found.longest_line[1]})")
    said += _repeated(found)
    said += _personal(found)
    if found.rows:
        said.append("rows        three that training reads, a | between tokens:")
        said += [f"  {_shown(row)}" for row in found.rows]
    return said


def _source_words(source: Source, sources: list[Source]) -> str:
    sizes = f"{source.documents:,} documents, {_size(source.bytes)}"
    parts = ", ".join(f"{count:,} {part}" for part, count in source.parts.items())
    share = ""
    if any(each.weight for each in sources):
        whole = sum(each.weight or 1 for each in sources)
        share = f"; {100 * (source.weight or 1) / whole:.1f} % of an epoch's tokens"
    return f"{source.label}: {sizes}{f' ({parts})' if parts else ''}{share}"


def _left_out(found: Look) -> list[str]:
    said = []
    if found.empty:
        said.append(f"empty       {len(found.empty):,} documents, left out: {', '.join(found.empty[:3])}")
    if found.copied:
        said.append(f"copies      {len(found.copied):,} documents, left out:")
        said += [f"  {copy} is a copy of {kept}" for copy, kept in found.copied[:3]]
    if found.near:
        said.append(
            f"near        {len(found.near):,} near-duplicates share a part with the first, and count once:"
        )
        said += [f"  {other} is nearly {first}" for other, first in found.near[:3]]
    if found.unreadable:
        said.append(f"unreadable  {len(found.unreadable):,} files, left out:")
        said += [f"  {line}" for line in found.unreadable]
    return said


def _languages(found: Look) -> list[str]:
    shares = [f"{name} {100 * share:.1f} %" for name, share in found.scripts.items() if share >= TRACE]
    traces = [name for name, share in found.scripts.items() if share < TRACE]
    rest = [f"traces of {', '.join(traces)}"] if traces else []
    said = [f"scripts     {', '.join([*shares, *rest]) or 'no letters'}"]
    named = ", ".join(f"{name} {count:,}" for name, count in list(found.languages.items())[:6])
    what = "documents of a sample" if found.tokens and found.tokens.is_sample else "documents"
    said.append(f"languages   {named} ({what}, by script and frequent words)")
    if found.not_nfc_documents:
        words = f"{found.not_nfc_documents:,} documents are not in Unicode's NFC form; kept as they are"
        said.append(f"letters     {words}")
    return said


def _token_lines(found: Look) -> list[str]:
    tokens = found.tokens
    if tokens is None:
        return [f"tokens      not counted: {found.tokens_fault}"]
    about = f", estimated from {_size(tokens.read_bytes)} drawn by hash" if tokens.is_sample else ""
    said = [f"tokens      {tokens.tokens:,} by {tokens.base}{about}"]
    fits = "the tokenizer fits"
    if tokens.bytes_per_token < LITTLE_BYTES_A_TOKEN:
        fits = "the tokenizer does not fit: choose a base that was trained on this language"
    elif (tokens.unknown_fraction or 0) > MANY_UNKNOWN:
        fits = "the tokenizer does not know many of these words: choose another base"
    unknown = "" if tokens.unknown_fraction is None else f", {100 * tokens.unknown_fraction:.2f} % [UNK]"
    said.append(f"  {tokens.bytes_per_token:.2f} bytes a token{unknown}: {fits}")
    if tokens.broken:
        said.append("  frequent words that fall to pieces:")
        said += [f"    {each.count:>6,} × {'|'.join(each.pieces).strip()}" for each in tokens.broken]
    said.append("lengths     tokens a document")
    most = max((count for _, _, count in tokens.lengths), default=1)
    for low, high, count in tokens.lengths:
        said.append(f"  {low:>7,} to {high - 1:>7,}  {count:>7,}  {'█' * -(-BAR * count // most)}")
    return said


def _repeated(found: Look) -> list[str]:
    if not found.repeated:
        return ["repeated    no sentence of 30 characters stands in three documents"]
    count, share = len(found.repeated), 100 * found.repeated_share
    where = f"in {count:,} sentences that three documents or more have"
    said = [f"repeated    {share:.1f} % of the characters, {where}:"]
    shown = found.repeated[:REPEATED_SHOWN]
    return said + [f"  {each.documents:>6,} × {_cut(each.text, 90)}" for each in shown]


def _personal(found: Look) -> list[str]:
    said = []
    if found.redacted:
        words = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(found.redacted.items()))
        said.append(f"replaced    {words} (corpus.redact)")
    if not found.personal:
        return [*said, "personal    no pattern found; names have none"]
    said.append("personal    by pattern, masked; names have none (corpus.redact: true replaces these)")
    for kind, each in sorted(found.personal.items()):
        where = f"in {each.documents:,} documents"
        said.append(f"  {each.count:>6,} × {kind} {where}: {', '.join(each.examples)}")
    return said


def _shown(row: str) -> str:
    return _cut(row.replace("\n", "⏎").replace("\t", "⇥"), ROW_CHARACTERS)


def _cut(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def _size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
