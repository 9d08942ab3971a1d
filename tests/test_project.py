"""What the project promises about itself: its list of stages, its packages, its links, what it never names."""

import re
import resource
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import read_configuration

from stages.__main__ import EXAMPLE, ORDER, summary

ROOT = Path(__file__).parents[1]
PACKAGES = {"stages", "datamodules", "modules", "callbacks"}
# Spelt so that these lines do not find themselves.
HOSTS = r"pypi\.org|pythonhosted\.|download\.pytorch\.|artifac[t]ory|index[-_]url\s*="
MACHINE_PATHS = r"(?<![\w.}/])/(?:root|home|work|Users)/\w"


def project_files() -> list[Path]:
    """List the files that are, or are about to be, under version control."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def run(*command: str | Path) -> subprocess.CompletedProcess:
    """Run a command in the repository's root and keep what it prints."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)


def normal(name: str) -> str:
    """Spell a distribution's name as the packaging standard does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cpu_seconds(*arguments: str) -> float:
    """Return the CPU time of one `python …`, in seconds: the smaller of two runs."""
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(sys.executable, *arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_python_m_stages_lists_every_stage_in_order_with_its_first_sentence():
    listed = run(sys.executable, "-m", "stages")
    assert listed.returncode == 0, listed.stderr
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines() if line.startswith("  ")]
    assert [stage for stage, _ in lines] == list(ORDER)
    assert all(len(sentence) > 20 for _, sentence in lines)
    assert EXAMPLE in listed.stdout and (ROOT / EXAMPLE.split()[-1]).is_file()


def test_every_stage_file_is_in_the_list():
    shared = {"stage", "training", "strategies", "precision", "embedding", "idle", "optim", "window", "cli"}
    files = {path.stem for path in (ROOT / "stages").glob("[!_]*.py")}
    folders = {path.parent.name for path in (ROOT / "stages").glob("*/__main__.py")}
    assert (files | folders) - shared == set(ORDER)


def test_listing_the_stages_imports_none_of_them():
    program = "import sys, stages.__main__ as listing; listing.main(); print(*sys.modules, file=sys.stderr)"
    imported = set(run(sys.executable, "-c", program).stderr.split())
    assert "stages.__main__" in imported
    assert imported.isdisjoint({"torch", "numpy", "jsonargparse", "stages.cli", "stages.stage"})


def test_a_stage_file_without_a_docstring_is_refused_by_name(tmp_path):
    (tmp_path / "silent.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"silent\.py has no docstring"):
        summary(tmp_path / "silent.py")


def test_a_wheel_holds_exactly_the_four_packages_and_every_folder_of_them():
    packages = set(read_configuration(ROOT / "pyproject.toml")["tool"]["setuptools"]["packages"])
    assert {package.split(".")[0] for package in packages} == PACKAGES
    folders = {path.parent.relative_to(ROOT) for path in project_files() if path.suffix == ".py"}
    ours = {".".join(folder.parts) for folder in folders if folder.parts and folder.parts[0] in PACKAGES}
    assert ours == packages


def test_every_folder_of_a_package_has_an_init_that_holds_at_most_a_docstring():
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            text = (folder / "__init__.py").read_text()
            assert re.fullmatch(r'\s*(""".*?""")?\s*', text, re.DOTALL), f"{folder}/__init__.py holds code"


def test_no_init_file_stands_below_tests():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_dependency_is_pinned_without_naming_a_host():
    project = read_configuration(ROOT / "pyproject.toml", expand=False)["project"]
    extras = project["optional-dependencies"]
    peers = extras.pop("benchmark")  # other projects, measured at whatever version fits; not all fit together
    assert peers
    wanted = [*project["dependencies"], *chain(*extras.values())]
    names = {normal(Requirement(line).name) for line in wanted} - {"trivium"}
    constraints = (ROOT / "constraints.txt").read_text()
    pins = [Requirement(line) for line in constraints.splitlines() if not line.startswith("#")]
    assert names <= {normal(pin.name) for pin in pins}
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in pins)


def test_no_file_names_a_registry_host_or_a_path_of_one_machine():
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(f"{HOSTS}|{MACHINE_PATHS}", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []
    assert not (ROOT / "uv.lock").exists(), "a uv.lock names hosts; constraints.txt pins the versions"


@pytest.mark.parametrize(
    "words", [("index-url", " = x"), ("//pypi", ".org/simple"), ("open('/ro", "ot/data')"), (" /ho", "me/me")]
)
def test_the_search_for_hosts_and_machine_paths_finds(words):
    assert re.search(f"{HOSTS}|{MACHINE_PATHS}", "".join(words))


def test_links_between_documents_lead_to_files_that_exist():
    broken = []
    documents = [path for path in project_files() if path.suffix == ".md"]
    for document in documents:
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
            link = next(filter(None, target)).split("#")[0]
            if link and "://" not in link and not (document.parent / link).exists():
                broken.append(f"{document.relative_to(ROOT)} → {link}")
    assert documents and broken == []


def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    made = run("make", f"PYTHON={old}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/bin/python")
    assert made.returncode == 2
    assert "Python 3.9.1 is too old" in made.stderr and "make PYTHON=" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_make_alone_lists_every_command():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    listed = {line.split()[1] for line in run("make").stdout.splitlines() if line.startswith("make ")}
    assert listed == set(targets)


@pytest.mark.slow
def test_help_costs_at_most_a_second_more_than_importing_lightning():
    lightning = cpu_seconds("-c", "import lightning")
    assert cpu_seconds("-m", "stages.align", "--help") <= lightning + 1.0
