"""Lists the stages in the order of the pipeline, one line each: `python -m stages`."""

import ast
from pathlib import Path

ORDER = (
    "prepare",
    "pretrain",
    "align",
    "transfer",
    "instruct",
    "unify",
    "merge",
    "evaluate",
    "compress",
    "serve",
    "demo",
)
EXAMPLE = "python -m stages.align fit --config configs/align/infonce.yaml"


def stage_file(stage: str) -> Path:
    """Return the file that holds a stage's command line: a module, or a folder's `__main__.py`."""
    folder = Path(__file__).parent
    return folder / stage / "__main__.py" if (folder / stage).is_dir() else folder / f"{stage}.py"


def summary(path: Path) -> str:
    """Return the first line of a file's docstring, read without importing the file.

    Raises:
        ValueError: if the file does not open with a docstring.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(
            f"{path} has no docstring; a stage's file opens with one sentence that says what it does"
        )
    return docstring.splitlines()[0]


def main() -> None:
    """Print the list and how to go on."""
    print("Stages, in order; each is `python -m stages.<stage>`:\n")
    for stage in ORDER:
        print(f"  {stage:<9} {summary(stage_file(stage))}")
    print(f"\nFor example:  {EXAMPLE}")
    print("Arguments:    python -m stages.<stage> --help")
    print("All of it:    make demo")


if __name__ == "__main__":
    main()
