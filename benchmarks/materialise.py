"""Writing a pruned checkpoint at the size of the real model, against `cp` of the very bytes that it keeps.

    python benchmarks/materialise.py --folder /somewhere/with/90GB

The source has the published configuration's 28,010 tensors in 15 shards, as sparse files: what the plan keeps is on the
disk, what it drops is holes. `cp` leaves holes out, so all arms read the same bytes from the same places, and write as
many. Each arm begins with a source that is not in memory, and ends with all data on the disk: `cp` with `sync`,
materialise with the fsync that it does itself. `--retention` and `--layers-cut` say how much is written.
"""

import argparse
import json
import os
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
from autoreap.plan import BaseModel, load_plan  # noqa: E402
from autoreap.planning import make_plan, without_layers  # noqa: E402
from autoreap.writing.rewrite import plan_rewrite  # noqa: E402

CONFIG = TESTS / "fixtures" / "qwen3-omni-30b-a3b-instruct.config.json"
_RANDOM_BYTES = 64 << 20
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
    _fill(source, _plan(folder, source, options.retention, options.layers_cut))
    plan = _plan(folder, source, options.retention, options.layers_cut)  # of the fingerprint that the source now has
    command = [*AUTOREAP, "materialise", str(source), "--plan", str(plan), "--json"]
    seconds, output = _timed([*command, "--dry-run"])
    predicted = json.loads(output)
    print(f"dry run of {predicted['size_bytes']:,} bytes: {seconds:.1f} s", flush=True)
    result = folder / "pruned"
    for _ in range(options.repeat):
        _forget(source)
        copying, _ = _timed(["sh", "-c", f"cp -r {source} {result} && sync"])
        _remove(result)
        _forget(source)
        writing, output = _timed([*command, "-o", str(result)])
        written = open_checkpoint(result).num_bytes
        assert written == predicted["size_bytes"] == json.loads(output)["size_bytes"]
        _remove(result)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(
            f"cp {copying:.1f} s, materialise {writing:.1f} s, ratio {writing / copying:.2f}; "
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


def _fill(source: Path, plan: Path) -> None:
    """Put random bytes where the source holds what `plan` keeps."""
    random = np.random.default_rng(0).bytes(_RANDOM_BYTES)
    for tensor in plan_rewrite(open_checkpoint(source), load_plan(plan)).tensors:
        if tensor.source is None:
            continue
        with tensor.source.shard.open("r+b") as file:
            for offset, num_bytes in tensor.byte_runs():
                file.seek(offset)
                for start in range(0, num_bytes, _RANDOM_BYTES):
                    file.write(random[: num_bytes - start])


def _forget(source: Path) -> None:
    """Let no byte of the source be in memory."""
    subprocess.run(["sync"], check=True)
    for path in source.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remove(result: Path) -> None:
    shutil.rmtree(result)
    subprocess.run(["sync"], check=True)


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
