"""Whatever happens while a checkpoint is written: all of it appears or nothing, and the source stays as it was."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import identity_plan, random_component
from random_models import save_random_model
from safetensors.torch import load_file, save_file

from autoreap.errors import InputError
from autoreap.files import exclusive
from autoreap.models.checkpoint import INDEX_NAME, open_checkpoint
from autoreap.models.families import family_of
from autoreap.plan import PruningPlan, load_plan
from autoreap.writing import materialiser as module
from autoreap.writing import shards
from autoreap.writing.materialiser import materialise

SMALL_SHARD_BYTES = 20_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "model", dtype=torch.bfloat16, seed=11)


@pytest.fixture
def base(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in many shards, to be damaged."""
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", SMALL_SHARD_BYTES)
    checkpoint = open_checkpoint(model)
    whole = identity_plan(checkpoint.fingerprint, family_of(checkpoint.config).layout.shape(checkpoint.config))
    materialise(model, whole, tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "verification")
    return tmp_path / "base"


@pytest.fixture
def plan(base: Path) -> PruningPlan:
    return plan_for(base)


def plan_for(path: Path) -> PruningPlan:
    checkpoint = open_checkpoint(path)
    shape = family_of(checkpoint.config).layout.shape(checkpoint.config)
    thinker = random_component(shape.components["thinker"], num_experts=5, layers=(0, 1, 3, 5), seed=1)
    return replace(identity_plan(checkpoint.fingerprint, shape), thinker=thinker)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    before = contents(folder), sorted(folder.rglob("*"))
    yield
    assert (contents(folder), sorted(folder.rglob("*"))) == before


@pytest.mark.parametrize("target", ["full", "file", "link", "base/inside", "link to base/inside"])
def test_a_target_in_the_way_is_refused_and_untouched(
    base: Path, plan: PruningPlan, tmp_path: Path, target: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link to base").symlink_to(base)
    with nothing_changes(tmp_path), pytest.raises(InputError):
        materialise(base, plan, tmp_path / target)


@pytest.mark.parametrize("target", [".", "..", "nested/.."])
def test_a_target_without_a_name_of_its_own_is_refused(
    base: Path, plan: PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with nothing_changes(tmp_path), pytest.raises(InputError, match="names no new directory"):
        materialise(base, plan, Path(target))


def test_what_a_link_in_the_place_of_the_partial_directory_points_to_is_not_emptied(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("mine")
    (tmp_path / ".out.partial").symlink_to(tmp_path / "mine")
    with nothing_changes(tmp_path), pytest.raises(InputError, match="is a link"):
        materialise(base, plan, tmp_path / "out")


@pytest.mark.parametrize("relative", [False, True])
def test_no_folder_of_this_machine_is_told(
    base: Path, plan: PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    home = tmp_path / "alice"
    shutil.copytree(base, home / "model")
    monkeypatch.chdir(tmp_path)
    name = "alice/model" if relative else str(home / "model")  # the former has the form of a name on the hub
    named = replace(plan, base_model=replace(plan.base_model, name=name))
    materialise(home / "model", named, tmp_path / "out")
    telling = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and b"alice" in path.read_bytes()]
    assert telling == []
    assert load_plan(tmp_path / "out" / "plan.json").base_model.name == "model"


def test_hidden_files_do_not_travel(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    (base / ".env").write_text("SECRET=1")
    (base / ".journal.jsonl").write_text("of something else")
    materialise(base, plan, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_a_target_that_may_not_be_written_is_refused(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.geteuid() == 0:  # whom no permission stops; a file system of the kernel does
        locked = Path("/sys")
    try:
        with nothing_changes(base), pytest.raises(InputError, match="can't be written"):
            materialise(base, plan, locked / "out")
    finally:
        (tmp_path / "locked").chmod(stat.S_IRWXU)


def test_too_small_a_disk_is_refused_before_anything_is_written(
    base: Path, plan: PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPARE_BYTES", shutil.disk_usage(tmp_path).free)
    with nothing_changes(tmp_path), pytest.raises(InputError, match="GB are free"):
        materialise(base, plan, tmp_path / "out")


@pytest.mark.parametrize("limit", [1_000, 15_000])
def test_a_disk_that_fills_up_leaves_nothing_behind(base: Path, plan: PruningPlan, tmp_path: Path, limit: int) -> None:
    """A real limit of the operating system on the size of files: a write fails half way, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with nothing_changes(tmp_path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(InputError, match=os.strerror(errno.EFBIG)):
                materialise(base, plan, tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)


def test_a_missing_shard_is_named(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    shard = sorted(base.glob("*.safetensors"))[3]
    shard.unlink()
    with nothing_changes(tmp_path), pytest.raises(InputError, match="this shard is missing") as error:
        materialise(base, plan, tmp_path / "out")
    assert shard.name in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no header", "longer header"])
def test_a_damaged_shard_is_named(base: Path, plan: PruningPlan, tmp_path: Path, damage: str) -> None:
    shard = sorted(base.glob("*.safetensors"))[2]
    intact = shard.read_bytes()
    damaged = {
        "truncated": intact[:-1],
        "empty": b"",
        "no header": intact[:8] + b"x" * (len(intact) - 8),
        "longer header": b"\xff" * 8 + intact[8:],
    }
    shard.write_bytes(damaged[damage])
    with nothing_changes(tmp_path), pytest.raises(InputError) as error:
        materialise(base, plan, tmp_path / "out")
    assert shard.name in str(error.value)


def test_a_shard_that_shrinks_while_it_is_read_is_an_error(
    base: Path, plan: PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = sorted(base.glob("*.safetensors"))[-1]
    write_shard = shards.write_shard

    def shrinking(*arguments: object) -> dict[str, str]:
        os.truncate(last, last.stat().st_size - 10)
        return write_shard(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_shard", shrinking)
    with pytest.raises(InputError, match="ends in the middle of a tensor"):
        materialise(base, plan, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_tensor_that_the_stock_class_needs_is_missed_before_anything_is_written(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    shard = sorted(base.glob("*.safetensors"))[1]
    index = json.loads((base / INDEX_NAME).read_text())
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != shard.name}
    (base / INDEX_NAME).write_text(json.dumps(index))
    with nothing_changes(tmp_path), pytest.raises(InputError, match="is missing, the stock class expects"):
        materialise(base, plan_for(base), tmp_path / "out")


@pytest.mark.parametrize("fault", ["moved", "unlisted", "extra"])
def test_an_index_that_disagrees_with_the_headers_is_an_error(
    base: Path, plan: PruningPlan, tmp_path: Path, fault: str
) -> None:
    index = json.loads((base / INDEX_NAME).read_text())
    files = list(index["weight_map"].values())
    name = next(name for name, file in index["weight_map"].items() if files.count(file) > 1)
    other = next(file for file in files if file != index["weight_map"][name])
    edits = {"moved": {name: other}, "unlisted": {}, "extra": {"thinker.model.more.weight": other}}
    if fault == "unlisted":
        del index["weight_map"][name]
    index["weight_map"] |= edits[fault]
    (base / INDEX_NAME).write_text(json.dumps(index))
    with nothing_changes(tmp_path), pytest.raises(InputError, match="is listed in"):
        materialise(base, plan, tmp_path / "out")


def test_a_tensor_stored_twice_is_an_error(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    first, second = sorted(base.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor}, second)
    with nothing_changes(tmp_path), pytest.raises(InputError, match=f"tensor {name} is also in"):
        materialise(base, plan, tmp_path / "out")


def test_two_writers_of_one_checkpoint_do_not_meet(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model-00001-of-00002.safetensors").write_text("of the other writer")
    held = exclusive(tmp_path / ".out.lock", "held", fix="wait")
    with held, nothing_changes(tmp_path), pytest.raises(InputError, match="another process is writing"):
        materialise(base, plan, tmp_path / "out")


def test_an_error_of_what_is_done_under_a_lock_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), exclusive(tmp_path / "lock", "held", fix="wait"):
        raise BlockingIOError


def test_a_write_that_was_killed_goes_on_after_its_last_finished_shard(
    base: Path, plan: PruningPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = contents(materialised(base, plan, tmp_path / "expected"))
    kill_after(0.0, base, plan, tmp_path / "out", after_shards=4)
    finished = sorted((tmp_path / ".out.partial").glob("*.safetensors"))
    assert len(finished) >= 4
    inodes = {path.name: path.stat().st_ino for path in finished[:4]}
    assert contents(materialised(base, plan, tmp_path / "out")) == expected
    assert "going on with" in capsys.readouterr().err
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in inodes} == inodes
    assert not (tmp_path / ".out.partial").exists()


def test_a_finished_shard_that_is_gone_is_written_again(base: Path, plan: PruningPlan, tmp_path: Path) -> None:
    kill_after(0.0, base, plan, tmp_path / "out", after_shards=4)
    sorted((tmp_path / ".out.partial").glob("*.safetensors"))[1].unlink()
    assert contents(materialised(base, plan, tmp_path / "out")) == contents(
        materialised(base, plan, tmp_path / "expected")
    )


@pytest.mark.parametrize("line", ['{"shard": 3, "checksums": {}}', '{"shard": "a"}', "[]", "{"])
@pytest.mark.slow
def test_shards_after_a_damaged_line_of_the_journal_are_written_again(
    base: Path, plan: PruningPlan, tmp_path: Path, line: str
) -> None:
    kill_after(0.0, base, plan, tmp_path / "out", after_shards=4)
    journal = tmp_path / ".out.partial" / ".journal.jsonl"
    lines = journal.read_text().splitlines()
    lines[2] = line
    journal.write_text("\n".join(lines) + "\n")
    expected = contents(materialised(base, plan, tmp_path / "expected"))
    assert contents(materialised(base, plan, tmp_path / "out")) == expected


@pytest.mark.parametrize("change", ["plan", "source"])
def test_what_is_left_of_another_write_is_not_gone_on_with(
    base: Path, plan: PruningPlan, tmp_path: Path, change: str
) -> None:
    kill_after(0.0, base, plan, tmp_path / "out", after_shards=4)
    if change == "plan":
        plan = replace(plan, strip_vision=True)
    else:  # of the same fingerprint, which knows the first bytes of small tensors alone
        shard = sorted(base.glob("*.safetensors"))[1]
        tensors = load_file(shard)
        large = {name: tensor for name, tensor in tensors.items() if tensor.nbytes > 1024}
        assert large
        for tensor in large.values():
            tensor.view(-1)[-1] += 1
        save_file(tensors, shard)
    materialise(base, plan, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(materialised(base, plan, tmp_path / "expected"))


def test_a_finished_shard_that_was_damaged_since_is_not_published(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    kill_after(0.0, base, plan, tmp_path / "out", after_shards=4)
    shard = sorted((tmp_path / ".out.partial").glob("*.safetensors"))[1]
    intact = shard.read_bytes()
    shard.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(Exception, match="differs from its source"):
        materialise(base, plan, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_finished_checkpoint_and_the_next_run_completes_it(
    base: Path, plan: PruningPlan, tmp_path: Path
) -> None:
    """Twenty kills at random moments of one write, each going on where the one before it was killed."""
    source, started = contents(base), time.monotonic()
    expected = contents(materialised(base, plan, tmp_path / "expected"))
    seconds = time.monotonic() - started
    target, completed = tmp_path / "out", 0
    for delay in np.random.default_rng(0).uniform(0, seconds, 20):
        kill_after(float(delay), base, plan, target)
        assert contents(base) == source
        if target.exists():
            assert contents(target) == expected
            shutil.rmtree(target)
            completed += 1
    assert completed < 20
    assert contents(materialised(base, plan, target)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expected", "out"]


def materialised(base: Path, plan: PruningPlan, target: Path) -> Path:
    materialise(base, plan, target)
    return target


def kill_after(seconds: float, base: Path, plan: PruningPlan, target: Path, *, after_shards: int = 0) -> None:
    """Materialise in a process of its own and kill it, once the journal names `after_shards` and `seconds` are over."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            materialise(base, plan, target)
        os._exit(0)
    journal = target.with_name(f".{target.name}.partial") / ".journal.jsonl"
    deadline = time.monotonic() + 60
    while after_shards and time.monotonic() < deadline:
        if journal.is_file() and journal.read_text().count("\n") > after_shards:
            break
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
