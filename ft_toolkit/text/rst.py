"""The text of reStructuredText, without its markup."""

from __future__ import annotations

import re

from ft_toolkit.text.encodings import decode
from ft_toolkit.text.packed import File, named

# docutils warns of such a title, quotes it, and takes it for a title all the same
_TITLE_KEPT = re.compile("WARNING/2.*Title (?:under|over)line too short", re.DOTALL)


def rst_text(file: File, encoding: str | None = None) -> str:
    """The text of a reStructuredText file without its markup; it includes no other file and runs nothing."""
    text = decode(file.data, file.place, encoding)
    with named(file.place, "reStructuredText"):
        return _rst(text)


def _rst(text: str) -> str:
    from docutils import nodes
    from docutils.core import publish_doctree

    settings = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,  # docutils.conf of the working folder
        "report_level": 1,  # otherwise a message is dropped with the text that it quotes
        "halt_level": 5,  # a fault of the markup is no reason to refuse the text
        "warning_stream": False,
        "syntax_highlight": "none",
        "docinfo_xform": False,
        "line_length_limit": max(10_000, len(text)),
    }
    tree = publish_doctree(text, settings_overrides=settings)
    for message in list(tree.findall(nodes.system_message)):  # it quotes what it found no place for
        is_kept = _TITLE_KEPT.search(message.astext()) is not None
        quoted = [n for n in message.children if isinstance(n, nodes.literal_block) and not is_kept]
        message.parent.replace(message, quoted)
    for kind in (nodes.comment, nodes.substitution_definition, nodes.raw, nodes.pending):
        for node in list(tree.findall(kind)):
            node.parent.remove(node)
    return str(tree.astext())
