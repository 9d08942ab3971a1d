"""A set is written once, whole, and to the same bytes, wherever the run that makes it is stopped."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from datamodules.preparation.cleaning.duplicates import ExactDuplicates
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.preparation.cleaning.texts import EmptyText
from datamodules.preparation.engines.examining import Examiner
from datamodules.preparation.exhibits.exhibits import Exhibits
from datamodules.preparation.recipe import Recipe
from datamodules.preparation.sets.folder import prepare_set
from datamodules.preparation.sets.lock import locked
from datamodules.preparation.step import Step
from datamodules.shards.reader import ShardReader
from datamodules.shards.whole import DiskFullError
from datamodules.sources.source import Dropped, Note, Sample, Source
from datamodules.sources.text_lines import TextLines


class InThisProcess:
    """An engine that examines where it is called."""

    def __init__(self, recipe):
        self.examiner = Examiner.of(recipe)

    def examine(self, name, items, first, total, spill):
        yield from self.examiner(first, list(items))


@dataclass
class Counted(Step):
    """Adds a number that depends on all samples before, and drops every seventh."""

    count: int = field(default=0, init=False)

    def __call__(self, samples):
        results = []
        for sample in samples:
            self.count += 1
            members = {**sample.members, "number": str(self.count).encode()}
            is_seventh = self.count % 7 == 0
            results.append(
                Dropped(sample.name, "a seventh") if is_seventh else Sample("other", members, sample.name)
            )
        return results

    def report(self):
        return {"counted": self.count}

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@dataclass
class Words(Source):
    """A line of several words is an item; each word is a sample, and the line is noted."""

    path: object

    def files(self):
        return [self.path]

    def __iter__(self):
        for number, line in enumerate(self.path.read_text().splitlines()):
            yield Sample("word", {"txt": line.encode()}, f"line {number}")

    def expand(self, sample):
        line = sample.members["txt"].decode()
        yield Note("line", {"text": line, "pair": (1, 2)})
        for word in line.split():
            yield Sample(sample.key, {"txt": word.encode()}, sample.name)

    def report(self, folder, notes=()):
        (folder / "lines.json").write_text(json.dumps([note.content for note in notes]))
        return {"lines": len(notes)}


@pytest.fixture
def text(tmp_path):
    """Sixty lines: ones that repeat, empty ones, one that is not UTF-8."""
    path = tmp_path / "text.txt"
    lines = [b"the line %d" % (n % 41) if n % 9 else b" " for n in range(60)]
    path.write_bytes(b"\n".join([*lines, b"caf\xe9", b"the end"]) + b"\n")
    return path


def recipe_of(text, source=TextLines, **changes):
    return Recipe(
        source(text),
        **{"filters": [EmptyText(), ExactDuplicates()], "steps": [Counted()], "max_samples": 8, **changes},
    )


def make(folder, recipe):
    engine = InThisProcess(recipe)
    return prepare_set(folder, recipe, recipe.description(), engine, lambda kept, tally: None, 0)


def content(folder):
    """Return all that a folder holds; the indices, which know the time of the tar beside them, as what they tell."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".index"}
    reader = ShardReader(folder)
    indexed = [(reader.key(n), reader.sample(n)) for n in range(len(reader))]
    return files, indexed, sorted(file.name for file in folder.iterdir())


FULL = r"no room for .*/000003\.tar of [\d,]+ bytes \(No space left.* bytes are free on that disk\)\. 3 whole shards"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("source", [TextLines, pytest.param(Words, marks=pytest.mark.slow)])
def test_killed_between_any_two_steps_of_writing_it_finishes_with_the_same_bytes(
    tmp_path, text, source, monkeypatch
):
    if source is Words:
        text.write_text("\n".join("a b c d e f g h i j k l m n o p" for _ in range(4)))
    filters = [] if source is Words else [EmptyText(), ExactDuplicates()]
    changes = {
        "source": source,
        "max_samples": 12,
        "filters": filters,
    }
    make(tmp_path / "undisturbed" / "set", recipe_of(text, **changes))
    expected = content(tmp_path / "undisturbed" / "set")
    assert len(ShardReader(tmp_path / "undisturbed" / "set").tars) == (6 if source is Words else 4)

    num_calls, kill_at = 0, 0

    def counted(call):
        def called(*args, **kwargs):
            nonlocal num_calls
            num_calls += 1
            if num_calls == kill_at:
                raise Killed
            result = call(*args, **kwargs)
            num_calls += 1
            if num_calls == kill_at:
                raise Killed
            return result

        return called

    is_killed = True
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted(lambda descriptor: None))  # the disk has no part in this
        for name in ("replace", "rmdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        while is_killed:
            kill_at += 1
            num_calls, is_killed = 0, False
            folder = tmp_path / f"killed-{kill_at}" / "set"
            try:
                make(folder, recipe_of(text, **changes))
            except Killed:
                is_killed = True
                num_calls = -1_000_000
                if not (folder / "manifest.json").exists():
                    make(folder, recipe_of(text, **changes))
            (folder / ".lock").unlink(missing_ok=True)  # as is_done does
            assert content(folder) == expected, f"killed at call {kill_at}"
    assert kill_at > 60


def test_what_is_whole_is_not_made_again(tmp_path, text):
    made = []

    @dataclass
    class Failing(Counted):
        stop_after: int = 10**9

        def __call__(self, samples):
            made.extend(sample.name for sample in samples)
            if len(made) > self.stop_after:
                raise Killed
            return super().__call__(samples)

    with pytest.raises(Killed):
        make(tmp_path / "set", recipe_of(text, steps=[Failing(stop_after=20)]))
    [unfinished] = tmp_path.glob(".set.unfinished")
    whole = {tar.name: tar.stat().st_mtime_ns for tar in unfinished.glob("*.tar")}
    names = list(made[:16])
    made.clear()
    # The same recipe but for how it fails.
    recipe = recipe_of(text, steps=[Failing(stop_after=20)])
    recipe.steps[0].stop_after = 20
    description = recipe.description()
    recipe.steps[0].stop_after = 10**9
    engine = InThisProcess(recipe)
    prepare_set(tmp_path / "set", recipe, description, engine, lambda kept, tally: None, 0)
    assert len(whole) == 2 and not set(made) & set(names)
    assert (
        whole.items()
        <= {tar.name: tar.stat().st_mtime_ns for tar in (tmp_path / "set").glob("*.tar")}.items()
    )


@pytest.mark.parametrize("change", ["recipe", "files"])
def test_what_was_begun_otherwise_is_thrown_away(tmp_path, text, change):
    with pytest.raises(Killed):
        make(tmp_path / "set", recipe_of(text, steps=[KilledStep(after=2)]))
    assert len(list((tmp_path / ".set.unfinished").glob("*.tar"))) == 2
    if change == "files":
        text.write_text("something else\n" * 3 + "altogether")
    steps = [KilledStep(after=2) if change == "files" else Counted()]
    make(tmp_path / "set", recipe_of(text, steps=steps))
    make(
        tmp_path / "other" / "set",
        recipe_of(text, steps=[KilledStep(2)] if change == "files" else [Counted()]),
    )
    assert content(tmp_path / "set") == content(tmp_path / "other" / "set")


@dataclass
class KilledStep(Step):
    after: int = 1

    def __call__(self, samples):
        self.after -= 1
        if self.after < 0:
            raise Killed
        return list(samples)


def test_a_shard_that_was_changed_since_is_made_again(tmp_path, text):
    recipe = recipe_of(text, steps=[KilledStep(after=3)])
    description = recipe.description()
    with pytest.raises(Killed):
        prepare_set(tmp_path / "set", recipe, description, InThisProcess(recipe), lambda *_: None, 0)
    (tmp_path / ".set.unfinished" / "000001.tar").write_bytes(b"cut")
    recipe = recipe_of(text, steps=[KilledStep(after=99)])
    prepare_set(tmp_path / "set", recipe, description, InThisProcess(recipe), lambda *_: None, 0)
    make(tmp_path / "other" / "set", recipe_of(text, steps=[]))
    tars = [
        {tar.name: tar.read_bytes() for tar in (tmp_path / name).glob("*.tar")}
        for name in ("set", "other/set")
    ]
    assert tars[0] == tars[1]


def test_a_set_that_another_run_is_writing_is_refused(tmp_path, text):
    program = (
        "import sys, time; from pathlib import Path; from datamodules.preparation.sets.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    unfinished = tmp_path / ".set.unfinished"
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(unfinished)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"being written by process {other.pid} on"):
            make(tmp_path / "set", recipe_of(text))
    finally:
        other.kill()
        other.wait()
    make(tmp_path / "set", recipe_of(text))  # a lock does not outlive its holder


def test_the_lock_is_not_inherited_by_worker_processes(tmp_path):
    with locked(tmp_path / "set"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "60"])
    try:
        program = (
            "import sys; from pathlib import Path; from datamodules.preparation.sets.lock import locked\n"
            "with locked(Path(sys.argv[1])): print('free')"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "set")]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "free\n"
    finally:
        for process in (child.pid, pid):
            os.kill(process, 9)
            os.waitpid(process, 0)


def test_a_full_disk_is_told_and_what_is_whole_stays(tmp_path, text, monkeypatch):
    expected = make(tmp_path / "other" / "set", recipe_of(text))
    synced = []

    def fsync(descriptor, call=os.fsync):
        synced.append(descriptor)
        if len(synced) > 16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        call(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFullError, match=FULL) as full:
            make(tmp_path / "set", recipe_of(text))
    assert "whole shards stay in" in str(full.value) and "run the same command again" in str(full.value)
    assert not list((tmp_path / ".set.unfinished").glob(".0*"))
    assert make(tmp_path / "set", recipe_of(text)) == expected


def test_steps_see_kept_samples_and_what_they_drop_is_counted(tmp_path, text):
    manifest = make(tmp_path / "set", recipe_of(text))
    assert manifest["counted"] == 40 == manifest["samples"] + manifest["dropped"]["a seventh"]
    assert manifest["members"] == {"number": manifest["samples"], "txt": manifest["samples"]}
    assert all(key.startswith("text-") for key, _ in content(tmp_path / "set")[1]), "a step changed a key"


def test_a_step_that_returns_too_few_is_refused(tmp_path, text):
    @dataclass
    class Short(Step):
        def __call__(self, samples):
            return samples[:-1]

    with pytest.raises(ValueError, match="Short was given 8 samples and returned 7"):
        make(tmp_path / "set", recipe_of(text, steps=[Short()]))


def test_a_shard_holds_no_more_than_max_bytes_unless_one_sample_does(tmp_path):
    lengths = [10, 10, 10, 300, 10, 10, 90, 20]
    (tmp_path / "text.txt").write_text("".join("x" * length + "\n" for length in lengths))
    recipe = Recipe(TextLines(tmp_path / "text.txt"), filters=[], max_bytes=100)
    make(tmp_path / "set", recipe)
    reader = ShardReader(tmp_path / "set")
    sizes = [[] for _ in reader.tars]
    for position in range(len(reader)):
        sizes[reader.locate(position)[0]].append(len(reader.sample(position)["txt"]))
    assert sizes == [[10, 10, 10], [300], [10, 10], [90], [20]]


def test_a_sample_that_something_fails_on_is_dropped_and_named(tmp_path, text):
    @dataclass
    class Broken(Filter):
        def examine(self, sample):
            if b"7" in sample.members["txt"]:
                raise KeyError("what now")

    manifest = make(tmp_path / "set", recipe_of(text, filters=[Broken()], steps=[]))
    assert manifest["dropped"]["Broken failed"] == 5
    assert manifest["dropped_names"]["Broken failed"][0] == "text:8 (KeyError: 'what now')"


def test_failures_beyond_max_errors_stop_the_run(tmp_path, text):
    @dataclass
    class Broken(Filter):
        def examine(self, sample):
            raise KeyError("what now")

    with pytest.raises(ValueError, match=r"11 samples failed .* Broken failed: text:13 .*max_errors = 10"):
        make(tmp_path / "set", recipe_of(text, filters=[EmptyText(), Broken()], max_errors=10))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "no member"),
        ({"pkl": b"code"}, "unsafe member"),
        ({"../x": b"path"}, "unsafe member"),
        ({"txt": None}, "member too large"),
    ],
)
def test_what_cannot_stand_in_a_shard_is_dropped(tmp_path, members, reason):
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)

    class Given(Source):
        def __iter__(self):
            yield Sample("k", {name: huge if data is None else data for name, data in members.items()}, "it")

        def files(self):
            return []

    [examined] = Examiner(Given(), None, [])(0, list(Given()))
    assert (examined.item.reason, examined.item.name) == (reason, "it")


def test_keys_of_any_kind_become_keys_that_a_tar_and_an_index_hold(tmp_path):
    keys = ["a.b", "../../etc/passwd", "", "x" * 5000, "x" * 5001, "caf\xe9", "a_b"]

    @dataclass
    class Given(Source):
        path: object = tmp_path

        def __iter__(self):
            return (Sample(key, {"txt": key.encode() or b"-"}, key[:9]) for key in keys)

        def files(self):
            return []

    make(tmp_path / "set", Recipe(Given(), filters=[]))
    reader = ShardReader(tmp_path / "set")
    assert len(reader) == len({reader.key(n) for n in range(len(reader))}) == len(keys)
    assert [reader.sample(n)["txt"].decode() for n in range(len(reader))] == [key or "-" for key in keys]


def test_a_stopped_set_shows_the_same_examples_and_histograms(tmp_path, text):
    make(tmp_path / "set", recipe_of(text, steps=[]))
    recipe = recipe_of(text, steps=[KilledStep(after=2)])
    description = recipe_of(text, steps=[]).description()
    with pytest.raises(Killed):
        prepare_set(tmp_path / "other", recipe, description, InThisProcess(recipe), lambda *_: None, 0)
    recipe.steps = []
    with pytest.raises(ValueError):  # the journal was written with one step
        prepare_set(tmp_path / "other", recipe, description, InThisProcess(recipe), lambda *_: None, 0)
    recipe.steps = [KilledStep(after=99)]
    prepare_set(tmp_path / "other", recipe, description, InThisProcess(recipe), lambda *_: None, 0)
    examples = (tmp_path / "set/examples.json").read_bytes()
    assert (tmp_path / "other/examples.json").read_bytes() == examples
    exhibits = Exhibits.from_plain(json.loads(examples))
    assert len(exhibits.kept.ranked) == 12 and len(exhibits.histograms["bytes"]) == 40
    assert all(shown["previews"] for _, shown in exhibits.dropped["text is not UTF-8"].ranked)


def test_duplicates_name_the_key_that_was_kept(tmp_path, text):
    make(tmp_path / "set", recipe_of(text, steps=[]))
    dropped = json.loads((tmp_path / "set/examples.json").read_text())["dropped"]["exact duplicate"]
    twins = {shown["twin"] for _, shown in dropped}
    assert twins and twins <= {key for key, _ in content(tmp_path / "set")[1]}


def test_findings_that_no_journal_holds_are_a_mistake_of_the_filter(tmp_path, text):
    @dataclass
    class Odd(Filter):
        def examine(self, sample):
            return frozenset(sample.members)

        def judge(self, finding, key):
            return None

    with pytest.raises(TypeError, match="finding is a frozenset"):
        make(tmp_path / "set", recipe_of(text, filters=[Odd()]))


def test_rejections_of_a_worker_are_shown_with_their_members(text):
    class Never(Filter):
        def examine(self, sample):
            raise Reject("never")

    examiner = Examiner(TextLines(text), None, [Never()])
    dropped = [examined.item for examined in examiner(0, [*TextLines(text)][1:30])]
    assert dropped[0].sample.members == {"txt": b"the line 1"}
    assert dropped[-1].sample is None, "beyond the first few, members stay in the worker"
