"""The training speech: synthesised once into the work directory, as cached log-mel features with their words."""

import json
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tools.tiny_omni.features import log_mel
from tools.tiny_omni.speech import draw_more_voices, draw_voice, synthesise, through_opus
from tools.tiny_omni.words import Sentence, draw_from

UTTERANCES_PER_SHARD = 525
NUM_SHARDS = {"speech": 40, "more-voices": 8}
_OPUS_SHARE = 0.35


@dataclass(frozen=True)
class Corpus:
    """All training utterances; utterance i is ``frames[starts[i]:starts[i + 1]]``, [frames, 128] log10 mel power."""

    frames: NDArray[np.float16]
    starts: NDArray[np.int64]
    sentences: list[Sentence]

    def __len__(self) -> int:
        return len(self.sentences)

    def mel(self, index: int) -> torch.Tensor:
        """Return log10 mel power of one utterance, [frames, 128] in fp32."""
        return torch.from_numpy(self.frames[self.starts[index] : self.starts[index + 1]].astype(np.float32))


def synthesise_corpus(folder: Path, seed: int, num_workers: int = 2) -> None:
    """Write every missing shard of a corpus into ``folder``, whose name is one of ``NUM_SHARDS``.

    Finished shards are kept, so a restart is cheap.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        (folder, seed, shard) for shard in range(NUM_SHARDS[folder.name]) if not _meta_path(folder, shard).exists()
    ]
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(_write_shard, missing), start=1):
            elapsed = time.monotonic() - started
            remaining = elapsed / done * (len(missing) - done)
            print(f"{folder.name} {done}/{len(missing)} shards, {elapsed:.0f} s, ETA {remaining:.0f} s", flush=True)


def load_corpus(folder: Path) -> Corpus:
    """Read all shards of ``folder`` into memory (about 0.8 GB)."""
    shards = sorted(folder.glob("*.json"))
    sentences: list[Sentence] = []
    lengths: list[int] = []
    for path in shards:
        meta = json.loads(path.read_text())
        sentences += [tuple(sentence) for sentence in meta["sentences"]]
        lengths += meta["lengths"]
    frames = np.concatenate([np.load(path.with_suffix(".npy")) for path in shards])
    return Corpus(frames, np.concatenate([[0], np.cumsum(lengths)]), sentences)


def _meta_path(folder: Path, shard: int) -> Path:
    return folder / f"speech-{shard:02d}.json"


def _write_shard(job: tuple[Path, int, int]) -> None:
    folder, seed, shard = job
    torch.set_num_threads(1)
    is_first = folder.name == "speech"
    rng = np.random.default_rng([seed, shard] if is_first else [seed, shard, 1])
    draw = draw_voice if is_first else draw_more_voices
    mels, sentences = [], []
    for _ in range(UTTERANCES_PER_SHARD):
        sentence = draw_from("train", rng)
        samples = synthesise(sentence, draw(rng), rng)
        mels.append(log_mel(through_opus(samples) if rng.random() < _OPUS_SHARE else samples))
        sentences.append(sentence)
    np.save(_meta_path(folder, shard).with_suffix(".npy"), np.concatenate(mels))
    meta = {"sentences": sentences, "lengths": [len(mel) for mel in mels]}
    _meta_path(folder, shard).write_text(json.dumps(meta))
