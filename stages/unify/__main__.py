"""Unify: one causal model over words, image tokens and audio units, which captions and draws."""

import sys

from stages.cli import command, run
from stages.unify.generate import caption, draw
from stages.unify.units import units

COMMANDS = {"units": units, "draw": draw, "caption": caption}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        command(COMMANDS)
    else:
        run("stages.unify.unify.Unify")
