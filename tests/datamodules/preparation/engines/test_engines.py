"""Engines give what examining in order gives, in a bounded memory, and survive what kills a worker."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from datamodules.preparation.cleaning.duplicates import ExactDuplicates
from datamodules.preparation.cleaning.filter import Filter
from datamodules.preparation.cleaning.texts import EmptyText
from datamodules.preparation.engines.examining import Examiner
from datamodules.preparation.engines.local import MAX_UNIT_BYTES, LocalEngine, unit_size
from datamodules.preparation.engines.ray import RayEngine
from datamodules.sources.source import Dropped, Sample, Source

ROOT = Path(__file__).parents[4]


@dataclass
class Numbers(Source):
    """Items 0 to n - 1; each makes `repeats` samples of `num_bytes`."""

    path: Path
    n: int = 100
    repeats: int = 1
    num_bytes: int = 10

    def files(self):
        return []

    def __len__(self):
        return self.n

    def __iter__(self):
        for number in range(self.n):
            item = Sample(f"{number}", {"txt": b"%d" % number}, f"item {number}")
            yield Dropped(item.name, "13 is bad luck") if number == 13 else item

    def expand(self, sample):
        for number in range(self.repeats):
            text = f"{sample.key}.{number} ".encode()
            yield Sample(sample.key, {"bin": text.ljust(self.num_bytes)}, f"{sample.name}, {number}")


@dataclass
class Deadly(Filter):
    """Kills the process that examines one of the items."""

    key: str = "50"

    def examine(self, sample):
        if sample.key == self.key:
            os.kill(os.getpid(), signal.SIGSEGV)


def examined(engine, source, spill):
    with engine:
        return list(engine.examine("set", iter(source), 0, len(source), spill))


def test_local_engine_gives_what_examining_in_order_gives(tmp_path):
    examiner = Examiner(Numbers(tmp_path, repeats=3), None, [EmptyText(), ExactDuplicates()])
    found = examined(LocalEngine({"set": examiner}, 2), examiner.source, tmp_path / "spill")
    assert found == list(examiner(0, list(examiner.source)))
    assert len(found) == 99 * 3 + 1


def test_an_item_that_becomes_more_than_a_unit_may_hold_comes_through_a_file(tmp_path):
    source = Numbers(tmp_path, n=3, repeats=6, num_bytes=MAX_UNIT_BYTES // 4)
    examiner = Examiner(source, None, [])
    spill, sizes, found = tmp_path / "spill", [], []
    with LocalEngine({"set": examiner}, 1) as engine:
        for each in engine.examine("set", iter(source), 0, 3, spill):
            sizes.append(sum(file.stat().st_size for file in spill.iterdir()))
            found.append(each)
    assert found == list(examiner(0, list(source)))
    assert max(sizes) >= 2 * source.num_bytes
    assert list(spill.iterdir()) == []


def test_a_sample_that_kills_its_worker_is_dropped_and_no_other(tmp_path):
    source = Numbers(tmp_path)
    examiner = Examiner(source, None, [Deadly()])
    found = examined(LocalEngine({"set": examiner}, 2), source, tmp_path / "spill")
    expected = list(Examiner(source, None, [Filter()])(0, list(source)))
    assert [each.item for each in found if each.source_item != 50] == [
        each.item for each in expected if each.source_item != 50
    ]
    assert [each.item for each in found if each.source_item == 50] == [
        Dropped("item 50", "kills its worker process")
    ]


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from datamodules.preparation.engines.local import LocalEngine\n"
        "with LocalEngine({}, 2) as engine:\n"
        "    engine.pool.submit(time.sleep, 0).result(); engine.pool.submit(time.sleep, 0).result()\n"
        "    print(*engine.pool._processes, flush=True); time.sleep(60)"
    )
    main = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    workers = [Path("/proc") / pid for pid in main.stdout.readline().split()]
    if not workers or not all(worker.exists() for worker in workers):
        main.kill()
        pytest.skip("no /proc to see processes in")
    main.kill()
    main.wait()
    deadline = time.monotonic() + 30
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives the main process"
        time.sleep(0.02)


def is_running(process):
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("total", "workers", "size"), [(6, 2, 1), (0, 2, 1), (160, 2, 10), (10**7, 16, 64)])
def test_few_items_are_spread_over_all_workers(total, workers, size):
    assert unit_size(total, workers) == size


@pytest.mark.slow
def test_ray_engine_gives_what_examining_in_order_gives(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'trivium[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from datamodules.sources.text_lines import TextLines

    (tmp_path / "text.txt").write_text("".join(f"line {n % 300}\n" if n % 50 else "\n" for n in range(1000)))
    source = TextLines(tmp_path / "text.txt")
    examiner = Examiner(source, None, [EmptyText(), ExactDuplicates()])
    with RayEngine({"set": examiner}, 2) as engine:
        found = [list(engine.examine("set", iter(source), 0, n, tmp_path)) for n in (1000, 10)]
    import ray

    assert not ray.is_initialized()
    expected = outcomes(examiner(0, list(source)))
    assert [outcomes(each) for each in found] == [expected, expected]


def outcomes(found):
    """Return what came out, but for previews of drops, of which each process shows its first."""
    return [
        each._replace(item=replace(each.item, sample=None) if isinstance(each.item, Dropped) else each.item)
        for each in found
    ]


def test_a_missing_ray_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray, and ray is not installed; run: pip install 'trivium\[ray\]'"):
        RayEngine({}, 2).__enter__()
