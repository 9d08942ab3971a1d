"""Names of members: which sample one belongs to, which members no sample may have, and labels made of any key."""

import hashlib
import re

UNSAFE_MEMBERS = frozenset(
    {"pkl", "pickle", "cpickle", "cloudpickle", "dill", "joblib", "marshal", "pck", "pcl", "p", "pyd"}
    | {"pth", "pt", "ckpt", "npy", "npz"}
)
"""Members that common decoders unpickle, in capitals or compressed as well; never delivered."""
COMPRESSED_MEMBERS = frozenset({"gz", "bgz", "bz2", "xz", "lzma", "zst", "zstd", "lz4", "br", "zip", "7z"})
"""Last parts of extensions whose content may unpack to any size; nothing here unpacks, so none is delivered."""
MAX_KEY_CHARACTERS = 512
_EXTENSION = re.compile(r"[\w.+-]{1,128}")


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Return key and extension: what is before and behind the first dot of the last part; empty where there is none."""
    start = max(name.rfind(b"/"), name.rfind(b"\\")) + 1
    dot = name.find(b".", start)
    if dot <= start or dot == len(name) - 1:
        return b"", b""
    return name[:dot], name[dot + 1 :]


def extension_problem(extension: str) -> str | None:
    """Return why a member with such an extension, in lower case, is never delivered; None where it is."""
    if not UNSAFE_MEMBERS.isdisjoint(extension.split(".")):
        return "unsafe_member"
    if extension.rpartition(".")[2] in COMPRESSED_MEMBERS:
        return "compressed_member"
    if extension.startswith("__"):
        return "reserved_name"  # webdataset's own fields: __key__, __url__, …
    return None if _EXTENSION.fullmatch(extension) else "unsafe_name"


def is_safe(extension: str) -> bool:
    """Tell whether a member with such an extension may be delivered."""
    return extension == extension.lower() and extension_problem(extension) is None


def label(key: bytes) -> str:
    """Return a key as a label: a relative name without `..`, drive or anything that cannot be printed.

    Keys are never used as paths here; made labels, they do no harm where someone else does. A key that is too long is
    cut, with a digest in place of the rest.
    """
    if key.isascii() and key.isalnum() and len(key) <= MAX_KEY_CHARACTERS:
        return key.decode()
    text = key.decode("utf-8", "replace").replace("\\", "/")
    text = "".join(character if character.isprintable() else "_" for character in text)
    parts = [part for part in re.sub(r"^[A-Za-z]:", "", text).split("/") if part.strip(" .")]
    text = "/".join(parts) or "_"
    if len(text) > MAX_KEY_CHARACTERS:
        text = f"{text[: MAX_KEY_CHARACTERS - 17]}-{hashlib.sha256(key).hexdigest()[:16]}"
    return text
