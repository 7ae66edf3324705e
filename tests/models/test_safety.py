"""A model directory is data: nothing in it is executed."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from autoreap.errors import InputError
from autoreap.models.loading import load, open_model
from autoreap.tiny_omni import CHECKPOINT


class _Trap:
    """Unpickling one creates the file it was made with."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    return tmp_path / "model"


def test_pickled_weights_are_not_read_even_where_there_are_no_others(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(InputError, match=r"holds neither model\.safetensors"):
        open_model(str(model))
    assert not (tmp_path / "sprung").exists()


def test_pickled_weights_beside_safetensors_are_left_alone(model: Path, tmp_path: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    loaded = load(open_model(str(model)))
    assert loaded.model.dtype == torch.float32
    assert not (tmp_path / "sprung").exists()


def test_code_that_a_checkpoint_brings_along_is_not_run(model: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = f"from pathlib import Path\nPath({str(sprung)!r}).touch()\nclass Own: pass\n"
    (model / "modeling_own.py").write_text(code)
    for name in ("config.json", "tokenizer_config.json"):
        document = json.loads((model / name).read_text())
        document["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "modeling_own.Own")
        document["auto_map"]["AutoTokenizer"] = ["modeling_own.Own", "modeling_own.Own"]
        (model / name).write_text(json.dumps(document))
    load(open_model(str(model)))
    assert not sprung.exists()
