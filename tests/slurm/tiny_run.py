"""Run: a run of the tiny stage on a cluster, submitted with the project's own batch script."""

import json
import sys
from pathlib import Path

import yaml
from cluster import Cluster

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS, BATCH = 40, 4


class Run:
    """What was submitted of one run, and what came of it.

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
