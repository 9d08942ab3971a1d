"""A Slurm cluster of two nodes for the session, and runs of a tiny stage on it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from cluster import Cluster, what_is_missing  # noqa: E402

STEPS, BATCH = 40, 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = None
    for item in items:
        if HERE not in item.path.parents or not item.get_closest_marker("slurm"):
            continue
        missing = missing if missing is not None else what_is_missing() or ""
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


class Run:
    """A run of the tiny stage, submitted with the project's own batch script.

    Args:
        cluster: where.
        folder: of the run, its config and what its job prints.
        model: more arguments of the stage.
        settings: of the command line, beside `model`.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, shards: Path, model: dict | None = None, **settings: object
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cluster, self.folder, self.run_dir = cluster, folder, folder / "run"
        content = {
            "run_dir": "overridden",
            "save_every_steps": 5,
            "stall_timeout_s": 10.0,
            **settings,
            "model": {
                "record": str(folder / "record"),
                "step_s": 0.15,
                "optim": {"lr": 0.01},
                **(model or {}),
            },
            "data": {"train": str(shards), "batch_size": BATCH, "num_workers": 1},
            "trainer": {
                "accelerator": "cpu",
                "strategy": "ddp",
                "max_steps": STEPS,
                "enable_progress_bar": False,
            },
        }
        self.config = folder / "tiny.yaml"
        self.config.write_text(yaml.safe_dump(content))
        self.jobs: list[str] = []

    def submit(self, *options: str, nodes: int = 2) -> str:
        """Submit `configs/slurm/multi_node.sbatch` with nothing changed but where and what."""
        size = [f"--nodes={nodes}", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
        job = self.cluster.submit(
            *size,
            f"--output={self.folder}/output.txt",
            f"--chdir={ROOT}",
            *options,
            str(ROOT / "configs/slurm/multi_node.sbatch"),
            MODULE="tiny",
            CONFIG=str(self.config),
            RUN_DIR=str(self.run_dir),
            PYTHON=sys.executable,
            PYTHONPATH=f"{ROOT}:{HERE}",
            OMP_NUM_THREADS="1",
        )
        self.jobs.append(job)
        return job

    @property
    def output(self) -> str:
        """What the job printed, all its starts."""
        path = self.folder / "output.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def lines(self, rank: int = 0) -> list[tuple[int, int, list[str], float]]:
        """Return (start, cursor, keys, loss) of every step that a rank made."""
        path = Path(f"{self.folder}/record.{rank}")
        # A killed process may leave a piece of a line, which is a step that did not happen.
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(json.loads(line)) for line in lines if line.endswith("]")]

    def reach(self, step: int) -> None:
        """Wait until the first rank has begun a step."""
        self.cluster.wait(
            lambda: len(self.lines()) >= step, 90, f"step {step} is reached: {self.output[-2000:]}"
        )

    def steps(self, rank: int) -> dict[int, tuple[list[str], float]]:
        """Return cursor -> keys and loss of a rank; a step that was made again must have come out alike."""
        found: dict[int, tuple[list[str], float]] = {}
        for _, cursor, keys, loss in self.lines(rank):
            assert found.setdefault(cursor, (keys, loss)) == (keys, loss)
        return found

    def weights(self) -> bytes:
        """Return the bytes of what the run hands over."""
        return (self.run_dir / "parts/net/weights.safetensors").read_bytes()


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
