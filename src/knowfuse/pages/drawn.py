"""How does what matplotlib draws become a file?"""

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from knowfuse.files import write_whole

matplotlib.use("Agg")
DOTS_PER_INCH = 120


def write_png(path: Path, picture: Figure) -> None:
    """`write_whole` of the picture."""
    drawn = io.BytesIO()
    picture.savefig(drawn, dpi=DOTS_PER_INCH, format="png")
    write_whole(path, drawn.getvalue())
