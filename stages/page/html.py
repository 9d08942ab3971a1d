"""HTML and SVG elements, written as calls; whatever text is put into one is escaped unless it is an element itself."""

from collections.abc import Iterable
from html import escape

VOID = frozenset({"img", "rect", "circle", "line", "path", "br"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: str | Iterable[str], **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: text, which is escaped; elements; or iterables of these.
        attributes: `class_` becomes class, `aria_label` aria-label; None leaves one out.
    """
    named = {
        key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None
    }
    given = "".join(f' {key}="{escape(str(value))}"' for key, value in named.items())
    return Html(f"<{name}{given}/>" if name in VOID else f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[str | Iterable[str]]) -> Html:
    """Return texts and elements, one after the other, as markup."""
    return Html("".join(_markup(child) for child in children))


def _markup(child: str | Iterable[str]) -> str:
    if isinstance(child, Html):
        return child
    return escape(child) if isinstance(child, str) else join(child)
