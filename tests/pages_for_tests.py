"""What a page of ours asks for, and what is on it."""

import re
from html.parser import HTMLParser

FETCHES = {"src", "srcset", "data", "poster", "action", "background", "xlink:href", "formaction", "ping"}


class Page(HTMLParser):
    """A page as a browser takes it apart; its parser complains of nothing, so what is not closed is counted."""

    VOID = ("meta", "br", "wbr", "input", "hr", "img", "link", "circle", "line", "rect", "path", "polygon")

    def __init__(self, written: str) -> None:
        super().__init__()
        self.requests: list[str] = re.findall(r"url\([^)]*\)|@import[^;]*", written)
        self.sections: list[str] = []
        self.targets: list[str] = []  # of links inside the page
        self.ids: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(written)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_inside = name == "href" and (value or "").startswith("#")
            if name in FETCHES or (name == "href" and not is_inside) or re.search(r"https?:|//\w", value or ""):
                self.requests.append(f"<{tag} {name}={value}>")
            self.targets += [(value or "")[1:]] if is_inside else []
            self.ids += [value or ""] if name == "id" else []
        if tag in ("script", "iframe", "object", "embed", "link"):
            self.requests.append(f"<{tag}>")
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "


def page_of(written: str) -> Page:
    """The page, if it asks for nothing, closes what it opens, and links to what is there."""
    page = Page(written)
    assert not page.requests
    assert not page.open
    assert set(page.targets) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    return page
