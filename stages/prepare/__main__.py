"""Clean the media that a user has, align subtitles in time, and pack all of it into shards."""

import sys

from stages.cli import command
from stages.prepare.inspect import inspect
from stages.prepare.prepare import listing, prepare

if __name__ == "__main__":
    if sys.argv[1:2] == ["inspect"]:
        command(inspect, args=sys.argv[2:], as_positional=True)
    else:
        command(prepare, epilog=listing())
