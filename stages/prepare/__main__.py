"""Clean the media that a user has, align subtitles in time, and pack all of it into shards."""

from stages.cli import command
from stages.prepare.prepare import prepare

if __name__ == "__main__":
    command(prepare)
