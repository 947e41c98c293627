"""Self-contained HTML pages: no network, no script, no other file."""

from html import escape
from typing import List, Sequence

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 0.8rem; width: 100% }
th, td { padding: 0.2rem 0.4rem; border-bottom: 1px solid #ddd; text-align: left; overflow-wrap: anywhere }
figure { margin: 1.5rem 0 } figure svg { max-width: 100%; height: auto }
figcaption { color: #555; font-size: 0.85rem }
pre { background: #f6f6f6; padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
"""


class Page:
    """Parts of a page, one below the other. All text is escaped; pictures are SVG as matplotlib writes it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: List[str] = []

    def heading(self, text: str) -> None:
        """A heading."""
        self.parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{escape(text)}</p>")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        self.parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>")

    def figure(self, caption: str, svg: str) -> None:
        """A picture. Its names get a prefix of their own, since pictures on one page must not share any."""
        prefix = f"figure{len(self.parts)}-"
        drawing = svg[svg.index("<svg") :]
        for before in ('id="', "url(#", 'href="#'):
            drawing = drawing.replace(before, before + prefix)
        self.parts.append(f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>")

    def sample(self, caption: str, text: str) -> None:
        """Text as it is."""
        self.parts.append(f"<figure><pre>{escape(text)}</pre><figcaption>{escape(caption)}</figcaption></figure>")

    def render(self) -> str:
        """The page."""
        body = "\n".join(self.parts)
        # An icon of its own, or a browser asks the network for one.
        head = f'<meta charset="utf-8"><title>{escape(self.title)}</title><link rel="icon" href="data:,">'
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
            f"<body><h1>{escape(self.title)}</h1>\n{body}\n</body></html>\n"
        )
