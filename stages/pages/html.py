"""HTML pages by Jinja2: one shell with style and content policy, and a template per page next to the code that fills it.

Every string that reaches a template is text: control characters are made visible and HTML is escaped. Only Markup, made by our
own templates and by charts.py, passes as it is. Nothing is fetched, and no script runs but the page's own.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from stages.core.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN = 160  # pixels of a picture's shorter side on a page; smaller pictures are enlarged without smoothing


def render_html(template: str, *, title: str, script: str = "", images: str = "data:", **values: Any) -> str:
    """The whole HTML text.

    Args:
        template: file of the template, relative to `stages/`; it extends `pages/shell.html`.
        title: of the page.
        script: the only script that may run.
        images: where pictures may come from, as the content policy says it.
        values: what the template uses; a name that it uses and does not get is an error.
    """
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'"
    if script:
        policy += f"; script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    fixed = {"title": title, "policy": Markup(policy), "script": Markup(script)}
    return _environment().get_template(template).render(**fixed, **values)


def enlargement(height: int, width: int) -> int:
    """The whole number by which a small picture is enlarged to be seen."""
    return max(1, -(-SHOWN // min(height, width)))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _visible(value: Any) -> Any:
    """Text with its control characters made visible; line breaks are kept."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))
