"""Normalising text, before any filter sees it."""

import unicodedata

from datamodules.preparation.cleaning.filter import Reject


def normalise(data: bytes) -> str:
    """Return UTF-8 text without byte-order mark, control and format characters, each run of white space as one space.

    Raises:
        Reject: the bytes are not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Reject("text is not UTF-8") from error
    if not text.isascii() or not text.isprintable():
        text = "".join(
            character
            for character in text
            if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        )
    return " ".join(text.split())
