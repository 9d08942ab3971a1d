"""A Slurm cluster of two nodes for the session, and runs of a tiny stage on it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from cluster import Cluster, what_is_missing  # noqa: E402
from tiny_run import Run  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = None
    for item in items:
        if HERE not in item.path.parents or not item.get_closest_marker("slurm"):
            continue
        missing = missing if missing is not None else what_is_missing() or ""
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the nodes share, with a small file system `small/` in it."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "small", folder / "small"], check=True)
    yield folder
    subprocess.run(["umount", folder / "small"], check=False)


@pytest.fixture(scope="session")
def shards(base: Path) -> Path:
    code = "import sys, pathlib, tiny; tiny.make_shards(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
    subprocess.run([sys.executable, "-c", code, str(base / "shards")], env=environment, check=True)
    return base / "shards"


@pytest.fixture(scope="session")
def cluster(base: Path) -> Iterator[Cluster]:
    with Cluster(base / "slurm") as running:
        yield running


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with all nodes at work and no job on it."""
    cluster.run("scancel", "--user=root", check=False)
    for node in cluster.nodes:
        if node not in cluster.inits:
            cluster.boot(node)
    cluster.wait(cluster.is_ready, 60, "all nodes are ready")
    cluster.wait(lambda: not cluster.run("squeue", "-h"), 60, "no job is left")
    yield cluster


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, base: Path, shards: Path) -> Run:
    run = Run(cluster, base / "undisturbed", shards)
    about = cluster.finish(run.submit(), 120)
    assert about["JobState"] == "COMPLETED", run.output
    return run
