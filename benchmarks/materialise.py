"""Writing a pruned checkpoint at the size of the real model, against `cp` of the same number of bytes.

    python benchmarks/materialise.py --folder /somewhere/with/90GB

The source is the published configuration's 28,010 tensors in 15 shards, as sparse files: full length, no disk, all
zeros. So reading costs no disk on either side, and writing costs all of it; `cp --sparse=never` copies sparse files of
as many bytes as the checkpoint has. Both arms end with the data on the disk (`sync`, and the fsync that materialise
does itself). `--retention` and `--layers-cut` say how much is written.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))

from builders import write_sparse_checkpoint  # noqa: E402

from autoreap.candidate import Candidate  # noqa: E402
from autoreap.models.checkpoint import open_checkpoint  # noqa: E402
from autoreap.models.families import family_of  # noqa: E402
from autoreap.plan import BaseModel  # noqa: E402
from autoreap.planning import make_plan, without_layers  # noqa: E402

CONFIG = TESTS / "fixtures" / "qwen3-omni-30b-a3b-instruct.config.json"
AUTOREAP = [sys.executable, "-m", "autoreap.cli"]


def main() -> None:
    options = _options()
    folder: Path = options.folder / "autoreap-benchmark"
    folder.mkdir(parents=True)
    try:
        _run(folder, options)
    finally:
        shutil.rmtree(folder)


def _run(folder: Path, options: argparse.Namespace) -> None:
    source = _source(folder / "base")
    plan = _plan(folder, source, options.retention, options.layers_cut)
    command = [*AUTOREAP, "materialise", str(source), "--plan", str(plan), "--json"]
    seconds, output = _timed([*command, "--dry-run"])
    predicted = json.loads(output)
    print(f"dry run of {predicted['size_bytes']:,} bytes: {seconds:.1f} s", flush=True)
    copied = _sparse_files(folder / "bytes", predicted["file_bytes"])
    for _ in range(options.repeat):
        copying, _ = _timed(["sh", "-c", f"cp -r --sparse=never {copied} {folder / 'copy'} && sync"])
        shutil.rmtree(folder / "copy")
        subprocess.run(["sync"], check=True)
        writing, output = _timed([*command, "-o", str(folder / "pruned")])
        written = open_checkpoint(folder / "pruned").num_bytes
        assert written == predicted["size_bytes"] == json.loads(output)["size_bytes"]
        shutil.rmtree(folder / "pruned")
        subprocess.run(["sync"], check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(
            f"cp {copying:.0f} s, materialise {writing:.0f} s, ratio {writing / copying:.2f}; "
            f"{written / 1e9 / writing:.2f} GB/s, peak memory {peak:.2f} GiB",
            flush=True,
        )


def _source(folder: Path) -> Path:
    config = json.loads(CONFIG.read_text())
    folder.mkdir()
    return write_sparse_checkpoint(folder, config, family_of(config).layout.expected_tensors(config), num_shards=15)


def _plan(folder: Path, source: Path, retention: float, layers_cut: int) -> Path:
    """Random experts, random layers cut, vision stripped."""
    checkpoint = open_checkpoint(source)
    shape = family_of(checkpoint.config).layout.shape(checkpoint.config)
    candidate = Candidate(retention=retention, saliency="random", strip_vision=True)
    plan = make_plan(candidate, None, shape, BaseModel("benchmark", checkpoint.fingerprint))
    inner = np.random.default_rng(0).permutation(np.arange(4, shape.components["thinker"].num_layers - 4))
    plan = without_layers(plan, "thinker", inner[:layers_cut].tolist(), shape)
    plan.save(folder / "plan.json")
    return folder / "plan.json"


def _sparse_files(folder: Path, num_bytes: int) -> Path:
    """Files of `num_bytes` in all, 5 GB at most each, that occupy no disk."""
    folder.mkdir()
    for number, start in enumerate(range(0, num_bytes, 5_000_000_000)):
        with (folder / f"{number}.bin").open("wb") as file:
            file.truncate(min(5_000_000_000, num_bytes - start))
    return folder


def _timed(command: Sequence[str]) -> tuple[float, str]:
    started = time.monotonic()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.monotonic() - started, output


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to measure; twice the result must fit")
    parser.add_argument("--retention", type=float, default=0.5, help="share of experts kept (default 0.5)")
    parser.add_argument("--layers-cut", type=int, default=4, help="default: 4")
    parser.add_argument("--repeat", type=int, default=1, help="times both arms run (default 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
