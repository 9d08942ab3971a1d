"""The command lines: Lightning's for the training stages, a typed function for the others; errors in one place."""

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.signals import STOPPED, hearing

if TYPE_CHECKING:
    from stages.training import TrainingCLI

TRACEBACK = "TRIVIUM_TRACEBACK"
ERROR_FILE = "TRIVIUM_ERROR_FILE"  # where a batch script looks for whether starting again makes sense
REFUSED = 2  # exit code of "this cannot work, and nothing was started"


def run(class_path: str, args: list[str] | None = None) -> "TrainingCLI":
    """Run the command line of a training stage, such as `run("stages.align.Align")`.

    Args:
        class_path: the stage, by import path: a class defined in `__main__` breaks saved class paths.
        args: instead of the process's own.

    Raises:
        SystemExit: 2 when the request is refused before the first step, 75 when stopped by a signal.
    """
    with hearing, refusals():
        _quiet()
        from stages.training import TrainingCLI

        return TrainingCLI.of(class_path, args)


def parse(class_path: str, args: list[str]) -> Any:
    """Parse a training stage's command line without building anything, and return the configuration.

    Raises:
        SystemExit: 2 when a key or a value is not one the stage takes.
    """
    _quiet()
    from stages.training import ParsedOnly

    return ParsedOnly.of(class_path, args).config


def command(
    component: Callable[..., Any] | dict[str, Callable[..., Any]],
    args: list[str] | None = None,
    as_positional: bool = False,
    epilog: str | None = None,
) -> Any:
    """Run a stage that is a typed function, or one of several as sub-commands.

    Args:
        component: the function; its signature and docstring are the command line.
        args: instead of the process's own.
        as_positional: whether arguments without a default are given by place, not by name.
        epilog: what `--help` says below the arguments.

    Raises:
        SystemExit: 2 when the request is refused.
    """
    _quiet()
    from jsonargparse import auto_cli, set_docstring_parse_options

    set_docstring_parse_options(attribute_docstrings=True)  # the sentence under a field is its help

    with refusals():
        return auto_cli(component, args=args, as_positional=as_positional, set_defaults=None, epilog=epilog)


class refusals:
    """Turn what a user can mend into one message and exit code 2; let our own mistakes show where they are.

    After `pass_on()`, errors pass: a training that fails at step 900 was not refused.
    """

    refusing = True

    @classmethod
    def pass_on(cls) -> None:
        """Say that the work has begun."""
        cls.refusing = False

    def __enter__(self) -> None:
        refusals.refusing = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            print("\nstopped: run the same command again to go on", file=sys.stderr)
            raise SystemExit(STOPPED) from None
        if isinstance(error, (ValueError, OSError)) and refusals.refusing and not os.environ.get(TRACEBACK):
            message = str(error)
            if isinstance(error, OSError) and error.filename:
                message = f"{error.strerror}: {error.filename}"
            _note(f"error: {message}\n")
            print(f"error: {message}\n({TRACEBACK}=1 shows where)", file=sys.stderr)
            raise SystemExit(REFUSED) from error
        if isinstance(error, Exception):
            _note("".join(traceback.format_exception(error)))
        elif isinstance(error, SystemExit) and error.code not in (None, 0, STOPPED):
            _note(f"exit code {error.code}\n")


def _note(text: str) -> None:
    """Leave an error where a batch script looks for it; of several ranks each adds its own."""
    if path := os.environ.get(ERROR_FILE):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _quiet() -> None:
    """Silence what libraries say at import about themselves; warnings about the user's run stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*IterableDataset.*has `__len__` defined.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
