"""On a shared machine nothing is written or read through links that others have laid."""

import json
import os
import stat
from pathlib import Path

import pytest

from autoreap.errors import InputError
from autoreap.files import atomic_write, exclusive, own_directory
from autoreap.models.checkpoint import INDEX_NAME, open_checkpoint
from autoreap.tiny_omni import CHECKPOINT


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    target = tmp_path / "out.json"
    target.symlink_to(mine)
    for guessed in ("out.json.partial", ".out.json.partial"):
        (tmp_path / guessed).symlink_to(mine)
    with atomic_write(target) as partial:
        partial.write_text("new")
    assert (mine.read_text(), target.read_text(), target.is_symlink()) == ("mine", "new", False)
    umask = os.umask(0o022)
    try:
        with atomic_write(target) as partial:
            partial.write_text("new")
        assert stat.S_IMODE(target.stat().st_mode) == 0o644
    finally:
        os.umask(umask)


def test_an_error_leaves_nothing_and_what_a_kill_left_goes_later(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250)
    with pytest.raises(RuntimeError), atomic_write(target):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    left = tmp_path / f".{'n' * 60}.abc.partial"
    left.touch()
    os.utime(left, (0, 0))
    with atomic_write(target) as partial:
        partial.write_text("new")
    assert list(tmp_path.iterdir()) == [target]


def test_directories_of_others_and_locks_that_are_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(InputError, match="is a link"):
        own_directory(tmp_path / "link")
    with pytest.raises(InputError, match="is a link"), exclusive(tmp_path / "link", "held", fix="wait"):
        pass
    own_directory(mine)
    monkeypatch.setattr(os, "geteuid", lambda: mine.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        own_directory(mine)


def test_a_model_folder_that_points_outside_is_refused_and_the_cache_of_the_hub_is_not(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in CHECKPOINT.iterdir():
        if path.is_file():
            (blobs / f"hash-{path.name}").write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(Path("../../blobs") / f"hash-{path.name}")
    assert open_checkpoint(snapshot).tensors
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)
    assert open_checkpoint(linked).tensors
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (snapshot / "notes.txt").symlink_to(secret)
    with pytest.raises(InputError, match=r"notes\.txt: is a link to outside"):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\0"])
def test_an_index_that_names_files_elsewhere_is_refused(shard: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    with pytest.raises(InputError, match="not a file beside it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        '{"a": {"num_hidden_layers": 1000000000}}',
        '{"depth": 1e300}',
        '[{"num_experts": 99999}]',
        '{"num_local_experts": 1000000000}',
    ],
)
def test_a_config_of_absurd_depth_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"more than 10,000|must be a JSON object"):
        open_checkpoint(tmp_path)
