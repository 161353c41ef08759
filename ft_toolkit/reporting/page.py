"""A template and its values → one self-contained page, which asks no other place for anything."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ft_toolkit import __version__
from ft_toolkit.judging.verdict import signed_percent
from ft_toolkit.reporting.figures import BOTTOM, HEIGHT, LEFT, RIGHT, STRIP_WIDTH, TOP, WIDTH
from ft_toolkit.reporting.tables import perplexity

TEMPLATES = Path(__file__).parent / "templates"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_CHART = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}


def page(template: str, scripts: Sequence[str] = ("page.js",), /, **values: Any) -> str:
    """Fill a template. Every value is escaped: a document may hold what a browser would obey.

    The page's own script is allowed by its hash, so that a browser runs no other one.

    scripts   templates of its parts
    """
    environment = _environment()
    script = "\n".join(environment.get_template(name).render() for name in scripts)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        values,
        chart=_CHART,
        strip_width=STRIP_WIDTH,
        version=__version__,
        script=Markup(script),  # noqa: S704  # our own files
        script_sha256=digest,
    )


def fragment(template: str, **values: Any) -> str:
    """Fill a template that is a part of a page; every value is escaped."""
    return _environment().get_template(template).render(values)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "perplexity": perplexity}
    return environment


def _percent(nats_per_token: float) -> str:
    return signed_percent(nats_per_token).replace(" ", "\u00a0")  # the sign stays on the number's line


def language(name: str | None) -> str | None:
    """A language as a page may name it: en, pt-BR; None for anything else that a recipe may say."""
    return name if name and _LANGUAGE.fullmatch(name) else None
