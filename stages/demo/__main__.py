"""Run the demo on embedded data, make that data, let it draw, or measure what stages and objectives are worth."""

from stages.cli import command
from stages.demo.ablation import ablate
from stages.demo.comparison import compare
from stages.demo.draw import draw
from stages.demo.drawings import drawings
from stages.demo.pipeline import run
from stages.demo.spoken_scenes import make

if __name__ == "__main__":
    command(
        {"run": run, "data": make, "ablate": ablate, "compare": compare, "drawings": drawings, "draw": draw}
    )
