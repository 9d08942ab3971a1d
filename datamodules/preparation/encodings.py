"""Text of an unknown encoding: told by marks, by UTF-8's own form, and at last by the alphabets of languages.

A wrong guess would put wrong words into every sample, so that little evidence is no evidence: then the text is taken as
UTF-8, and what that cannot read is marked. General detectors rate letters by themselves and take
French for Finnish (charset_normalizer 3.5.2); here a text must fit the letters of one language.
"""

import re
from typing import NamedTuple

MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
MIN_LETTERS = 5
"""Fewer letters beyond ASCII do not tell an encoding."""
MIN_SHARE = 0.95
"""Of the letters beyond ASCII, as many must belong to one language."""
MAX_CONTROLS = 0.001
"""Of the characters, at most as many may be control characters."""
SAMPLE_BYTES = 200_000
"""So much is looked at to tell the encoding."""
PUNCTUATION = frozenset("“”„‘’‚–—…«»¿¡°€•·©®™♪♫\xa0§´、。「」『』！？・ー〜～　，：；（）《》")
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")


class Language(NamedTuple):
    """Letters beyond ASCII that a language is written in, lower case."""

    encodings: tuple[str, ...]
    letters: frozenset[str]
    needed: frozenset[str] = frozenset()
    """One in ten letters must be one of these."""


def letters(text: str) -> frozenset[str]:
    """Return the letters of a text."""
    return frozenset(text)


def between(first: str, last: str) -> frozenset[str]:
    """Return the letters from one to another, in Unicode's order."""
    return frozenset(map(chr, range(ord(first), ord(last) + 1)))


def common(encoding: str, first: int, last: int) -> frozenset[str]:
    """Return the common characters of a double-byte standard: those whose first byte is in a range."""
    pairs = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(0x40, 0xFF))
    return frozenset("".join(pair.decode(encoding, errors="ignore") for pair in pairs))


WESTERN, CENTRAL = ("cp1252",), ("cp1250", "iso8859_2")
CYRILLIC = ("cp1251", "koi8_r", "cp866", "iso8859_5")


def languages() -> list[Language]:
    """Return the languages that are tried; where two explain a text alike, the earlier is taken."""
    kana = between("ぁ", "ヿ")
    cyrillic = between("а", "я")
    return [
        Language(WESTERN, letters("àâæçéèêëîïôœùûüÿ")),  # French
        Language(WESTERN, letters("äöüß")),  # German
        Language(WESTERN, letters("áéíóúüñªº")),  # Spanish
        Language(WESTERN, letters("ãõáâàéêíóôúüçªº")),  # Portuguese
        Language(WESTERN, letters("àèéìíîòóùú")),  # Italian
        Language(WESTERN, letters("àçèéíïòóúü")),  # Catalan
        Language(WESTERN, letters("áéëïíóöúè")),  # Dutch
        Language(WESTERN, letters("åäöéüàæø")),  # Swedish, Danish, Norwegian, Finnish
        Language(WESTERN, letters("áðéíóúýþæö")),  # Icelandic
        Language(CENTRAL, letters("ąćęłńóśźż")),  # Polish
        Language(CENTRAL, letters("áčďéěíňóřšťúůýž")),  # Czech
        Language(CENTRAL, letters("áäčďéíĺľňóôŕšťúýž")),  # Slovak
        Language(CENTRAL, letters("áéíóöőúüű")),  # Hungarian
        Language(CENTRAL, letters("ăâîșțşţ")),  # Romanian
        Language(CENTRAL, letters("čćđšž")),  # Croatian, Slovenian
        Language(("cp1254",), letters("çğıöşüâîûİ")),  # Turkish
        Language(("cp1257",), letters("ąčęėįšųūžāēģīķļņõäöü")),  # Baltic
        # Before Cyrillic, in which it would read as well, but not the other way round.
        Language(("cp1255", "iso8859_8"), between("א", "ת")),
        Language(CYRILLIC, cyrillic | letters("ё")),  # Russian, Bulgarian
        Language(CYRILLIC[:1], cyrillic - letters("ёъыэ") | letters("ґєії’")),  # Ukrainian
        Language(CYRILLIC[:1], cyrillic | letters("ђјљњћџ")),  # Serbian
        Language(("cp1253", "iso8859_7"), between("α", "ώ") | letters("ΐάέήίΰ")),
        Language(("cp1256",), between("ء", "ْ") | letters("پچژگک،؟؛")),
        Language(("cp932", "euc_jp"), kana | common("euc_jp", 0xB0, 0xCF), needed=kana),
        Language(("cp949",), common("euc_kr", 0xB0, 0xC8)),
        Language(("gb18030",), common("gb2312", 0xB0, 0xD7)),
        Language(("big5",), common("big5", 0xA4, 0xC6)),
    ]


def decode(data: bytes) -> tuple[str, str]:
    """Return text and the name of its encoding; what could not be read is U+FFFD.

    Raises:
        ValueError: the bytes are no text: control characters in every encoding.
    """
    encoding = marked(data) or wide(data)
    if encoding is None:
        encoding = "utf-8" if is_mostly_utf8(data) else guessed(data) or "utf-8"
    text = data.decode(encoding, errors="replace").removeprefix("\ufeff")
    num_controls = len(CONTROLS.findall(text))
    if num_controls > MAX_CONTROLS * len(text):
        raise ValueError(f"{num_controls} of {len(text)} characters are control characters; expected text")
    return text, encoding


def marked(data: bytes) -> str | None:
    """Return the encoding that a byte-order mark names."""
    return next((encoding for mark, encoding in MARKS if data.startswith(mark)), None)


def wide(data: bytes) -> str | None:
    """Return the encoding of UTF-16 without a mark, by a line break: every text has one."""
    head = data[:SAMPLE_BYTES]
    for encoding in ("utf-16-le", "utf-16-be"):
        found = head.find("\n".encode(encoding))
        while found % 2 and found > 0:
            found = head.find("\n".encode(encoding), found + 1)
        if found >= 0 and "-->".encode(encoding) in head:
            return encoding
    return None


def is_mostly_utf8(data: bytes) -> bool:
    """Whether more is written in UTF-8's sequences than there is that breaks them."""
    text = data.decode("utf-8", errors="replace")
    num_broken = text.count("\ufffd")
    return num_broken == 0 or num_broken < sum(character > "\x7f" for character in text) - num_broken


def guessed(data: bytes) -> str | None:
    """Return the encoding in which the letters beyond ASCII are those of one language, or None if that is unsure."""
    best, highest = None, 0.0
    head = data[:SAMPLE_BYTES]
    cut = head[: head.rfind(b"\n") + 1] or head if len(data) > SAMPLE_BYTES else head
    tried: dict[str, str | None] = {}
    for language in languages():
        for encoding in language.encodings:
            if encoding not in tried:
                tried[encoding] = decoded(cut, encoding)
            text = tried[encoding]
            share = 0.0 if text is None else share_of(text, language)
            if share > highest + 1e-9:
                best, highest = encoding, share
    return best if highest >= MIN_SHARE else None


def decoded(data: bytes, encoding: str) -> str | None:
    """Return the text, or None if the bytes are not of that encoding."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def share_of(text: str, language: Language) -> float:
    """Return which share of the letters beyond ASCII a language explains; 0 if there are too few to tell."""
    num_letters, num_known, num_needed = 0, 0, 0
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if character <= "\x7f" or character in PUNCTUATION:
            continue
        num_letters += 1
        num_needed += character in language.needed
        known = character in language.letters or character.lower() in language.letters
        num_known += known and not is_misplaced(before, character, after)
    if num_letters < MIN_LETTERS or (language.needed and num_needed < num_letters / 10):
        return 0.0
    return num_known / num_letters


def is_misplaced(before: str, character: str, after: str) -> bool:
    """Whether a letter cannot stand where it does, as happens in a wrong encoding.

    That is a capital after a small letter (wrong Cyrillic swaps the cases), a letter of another alphabet in a Latin
    word, and one of Hebrew's final letters before another letter.
    """
    if character.isupper() and before.islower():
        return True
    if character >= "\u0370" and any(other.isascii() and other.isalpha() for other in (before, after)):
        return character < "\u2000"
    return character in "ךםןףץ" and after.isalpha()
