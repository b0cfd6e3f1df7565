"""The command from nothing but traces: figures, a page that needs no other file, a picture."""

import json
from html.parser import HTMLParser
from pathlib import Path

from commands_for_tests import FORKED_AND_STARTED, ROOT, Run
from experiments_for_tests import SOURCES, TINY
from matplotlib.image import imread
from pages_for_tests import page_of

from knowfuse.align_report.example import Example, Piece, PredictedPiece
from knowfuse.align_report.page import alignment_page
from knowfuse.evaluation import AlignmentQuality
from knowfuse.types import MASS_CLASSES

METHODS = {path.stem for path in (ROOT / "conf" / "alignment").glob("*.yaml")} - {"optimal_transport"}


@FORKED_AND_STARTED
def test_the_command_writes_figures_page_and_picture(by: Run, tiny_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    options = [f"hydra.run.dir={folder}", "num_documents=4"]
    shown = by("-m", "knowfuse.align_report", *TINY, *options, cache=tiny_cache).well()
    figures = json.loads((folder / "alignment.json").read_text())
    assert set(figures) == set(SOURCES)
    for source, methods in figures.items():
        assert set(methods) == {"identity", *METHODS}, "every choice of the group that any target has"
        assert next(iter(methods)) == "identity"
        assert abs(methods["identity"]["loss_bits_per_byte"]) < 1e-6
        assert methods["identity"]["loss_bits_per_byte"] == methods["byte_exact"]["identity_bits_per_byte"]
        assert methods["byte_exact"]["coverage"] == 1.0
        assert abs(sum(methods["byte_exact"]["budget"].values()) - 1.0) < 1e-6
        assert source in shown
    assert abs(figures["llama2"]["byte_exact"]["loss_bits_per_byte"]) < 1e-6, "the target is a copy of it"
    written = (folder / "alignment.html").read_text()
    assert page_of(written).sections == ["figures", "mass", *(f"example-{n}" for n in range(len(SOURCES)))]
    assert imread(folder / "alignment.png").shape[1] > 1000


class Spans(HTMLParser):
    """The text of the page's spans, and their titles."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag == "span"
        self.titles += [value or "" for name, value in attrs if name == "title" and tag == "span"]

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "span"

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.texts.append(data)


def test_text_that_is_markup_stays_text() -> None:
    budget = {**dict.fromkeys(MASS_CLASSES, 0.0), "exact": 1.0}
    predicted = PredictedPiece("</p><b>", 0, 7, False, 0, "", 0.25, budget, [('"<i>', 0.25)])
    lost = PredictedPiece("x", 7, 8, False, None, "", 0.0, budget, [])
    example = Example("<a>", "t", [Piece("<script>", 0, 8, False)], [predicted, lost])
    parsed = Spans()
    parsed.feed(alignment_page({"<a>": {"byte_exact": AlignmentQuality(0.5, 1.0, 1.0, budget)}}, [example]))
    assert {"<script>", "</p><b>", "x"} <= set(parsed.texts)
    assert parsed.titles[0].splitlines()[0] == "source row 0: 0.2500 on this token"
    assert "'\"<i>' 0.2500" in parsed.titles[0]
    assert parsed.titles[1] == "not aligned"
