"""Pages that are one file and need no network: a Jinja2 template with its style, its scripts and its data inside.

Whatever a model or a data set says is untrusted. It travels as JSON and reaches the page as text, never as markup;
Jinja2 escapes all that a template writes itself.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from autoreap.files import atomic_write

_FOLDER = Path(__file__).parent / "page"


def write_page(template: str, path: Path, **context: Any) -> None:
    """Render `template` of `page/` into the file `path`."""
    # StrictUndefined: a name that is missing in a template is an error here, not a gap in the page.
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.globals |= {"asset": _asset, "embed": embed_json}
    page = environment.get_template(template).render(**context)
    # A text may hold half a character (a lone surrogate, as JSON can), which UTF-8 can't write.
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def read_words(language: str) -> dict[str, str]:
    """The words of the report's interface in one language."""
    words: dict[str, str] = json.loads((_FOLDER / f"words.{language}.json").read_text(encoding="utf-8"))
    return words


def embed_json(data: Any) -> Markup:
    """JSON that can't end the script element it stands in."""
    # A `</script>` in an output would end the element whatever quotes it stands in; as `\u003c` it is the same JSON.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _asset(name: str) -> Markup:
    # A style or script of ours: it goes into the page as it is, unlike all that a model says.
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))
