"""The hub of pretrained models: whether it answers, before a command waits for it again and again."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 3.0


def offline_unless_it_answers(config: Any) -> str | None:
    """Have models taken from this machine's cache alone where the hub is silent; asked only if a model is of the hub.

    Args:
        config: mappings and lists, in which models stand under `name_or_path`.

    Returns:
        What is to be said of it; None where nothing is.
    """
    names = [name for name in _names(config) if not Path(name).exists()]
    if not names:
        return None
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return None
    constants.HF_HUB_OFFLINE = True
    return (
        f"{constants.ENDPOINT} did not answer within {TIMEOUT_S:g} s: of {', '.join(names)} is taken what is cached "
        "here (fetch it on a machine that reaches the hub by `hf download NAME`, or name a folder)"
    )


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True  # in whatever way
    except OSError:
        return False
    return True


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("name_or_path"), str):
            yield config["name_or_path"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _names(value)
