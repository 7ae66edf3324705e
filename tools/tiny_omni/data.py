"""Write the tiny model's calibration and evaluation data: `python -m tools.tiny_omni.data --repository .`.

Sentences are split by their words alone (see ``words.split_of``), so no sentence is in two splits and none was trained
on. Calibration, search and report sets use voices heard in training; only the voices report set uses held-out ones.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.tiny_omni import tasks
from tools.tiny_omni.images import draw_image, draw_random
from tools.tiny_omni.media import DataFolder, Row, encode_audio, encode_image
from tools.tiny_omni.speech import HELD_OUT_VOICES, Voice, Waveform, add_noise, draw_voice, synthesise
from tools.tiny_omni.words import ATTRIBUTES, Sentence, Split, draw_from

NUM_ASR, NUM_NOISY, NUM_PER_HELD_OUT_VOICE, NUM_PER_QUESTION_KIND = 300, 150, 45, 52
NUM_IMAGES, NUM_MIXED, NUM_CALIBRATION, NUM_VIDEOS = 120, 120, 100, 8


@dataclass(frozen=True)
class Utterance:
    """One stored utterance; ``samples`` is what was encoded, so that noise can be added to it."""

    name: str
    audio: Row
    sentence: Sentence
    voice: Voice
    samples: Waveform


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and replace both data folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("."), help="where calibration/ and evals/ are")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args(arguments)
    for name, write in (("calibration/tiny", write_calibration), ("evals/tiny", write_evals)):
        shutil.rmtree(options.repository / name, ignore_errors=True)
        folder = DataFolder(options.repository / name, options.seed)
        write(folder, np.random.default_rng([options.seed, len(name)]))
        folder.write_manifest()


def write_calibration(folder: DataFolder, rng: np.random.Generator) -> None:
    """Write the audio, video and mixed rows that saliency is measured on."""
    speech = _record("calibration", NUM_CALIBRATION, rng)
    folder.write(
        "audio", [_calibration_audio(i, u, rng) for i, u in enumerate(speech)], "speech: transcribe, or a question"
    )
    video = [_calibration_video(i, rng) for i in range(NUM_CALIBRATION)]
    folder.write("video", video, "an image, or a video as a list of frames: a caption, or a question")
    mixed = [_calibration_mixed(i, speech[i], rng) for i in range(NUM_CALIBRATION)]
    folder.write("mixed", mixed, "the speech of audio with an image: a question that needs both")


def write_evals(folder: DataFolder, rng: np.random.Generator) -> None:
    """Write the search and report sets of speech recognition and questions, and the report sets of the other tasks."""
    splits: tuple[Split, Split] = ("search", "report")
    spoken = {split: _record(split, NUM_ASR, rng) for split in splits}
    for split, speech in spoken.items():
        folder.write(f"asr_{split}", [_asr_row(u) for u in speech], "new sentences, voices heard in training")
        noisy = [_noisy_row(u, rng) for u in speech[:NUM_NOISY]]
        folder.write(f"asr_noisy_{split}", noisy, f"utterances of asr_{split} with noise added")
        questions = [row for kind in tasks.QUESTION_KINDS for row in _question_rows(kind, split, speech, rng)]
        folder.write(f"qa_{split}", questions, f"questions about the utterances of asr_{split}")
    _write_voices(folder, {u.sentence for u in spoken["report"]}, rng)
    images = _write_captions(folder, rng)
    _write_mixed(folder, spoken["report"], images, rng)


def _record(split: Split, count: int, rng: np.random.Generator) -> list[Utterance]:
    """Synthesise ``count`` different sentences of ``split`` with training voices."""
    sentences: dict[Sentence, None] = {}
    while len(sentences) < count:
        sentences.setdefault(draw_from(split, rng))
    return [_utter(f"{split}-{i:03d}", s, draw_voice(rng), rng) for i, s in enumerate(sentences)]


def _utter(name: str, sentence: Sentence, voice: Voice, rng: np.random.Generator) -> Utterance:
    samples = synthesise(sentence, voice, rng)
    return Utterance(name, encode_audio(name, samples), sentence, voice, samples)


def _asr_row(utterance: Utterance) -> Row:
    text = " ".join(utterance.sentence)
    return {
        "id": utterance.name,
        "audio": utterance.audio,
        "text": text,
        "language": "en",
        "speaker": utterance.voice.speaker,
    }


def _noisy_row(clean: Utterance, rng: np.random.Generator) -> Row:
    snr, colour, name = float(rng.choice([10, 15])), str(rng.choice(["white", "pink"])), f"{clean.name}-noisy"
    samples = add_noise(clean.samples, snr, colour, rng)
    return {
        **_asr_row(clean),
        "id": name,
        "audio": encode_audio(name, samples),
        "snr_db": snr,
        "noise": colour,
    }


def _question_rows(kind: str, split: Split, speech: list[Utterance], rng: np.random.Generator) -> list[Row]:
    """Ask ``kind`` about random utterances until there are enough rows."""
    rows: list[Row] = []
    for index in rng.permutation(len(speech)):
        question = tasks.ask(kind, speech[index].sentence, rng)
        if question is not None and len(rows) < NUM_PER_QUESTION_KIND:
            rows.append({"id": f"qa-{split}-{kind}-{len(rows):02d}", "audio": speech[index].audio, **_asked(question)})
    return rows


def _asked(question: tasks.Question) -> Row:
    choices = {"choices": list(question.choices)} if question.choices else {}
    return {"question": question.text, **choices, "answer": question.answer, "kind": question.kind}


def _write_voices(folder: DataFolder, taken: set[Sentence], rng: np.random.Generator) -> None:
    rows: list[Row] = []
    for voice in HELD_OUT_VOICES:
        for _ in range(NUM_PER_HELD_OUT_VOICE):
            while (sentence := draw_from("report", rng)) in taken:
                continue
            taken.add(sentence)
            rows.append(_asr_row(_utter(f"voices-{len(rows):03d}", sentence, voice, rng)))
    folder.write("asr_voices_report", rows, "new sentences, voices never trained on")


def _write_captions(folder: DataFolder, rng: np.random.Generator) -> list[tuple[Row, str, str]]:
    images: list[tuple[Row, str, str]] = []
    rows = []
    for index in range(NUM_IMAGES):
        image, colour, shape = draw_random(rng)
        encoded = encode_image(f"report-{index:03d}", image)
        images.append((encoded, colour, shape))
        rows.append({"id": f"caption-{index:03d}", "image": encoded, **_asked(tasks.caption(colour, shape))})
    folder.write("caption_report", rows, "new drawings")
    return images


def _write_mixed(
    folder: DataFolder, speech: list[Utterance], images: list[tuple[Row, str, str]], rng: np.random.Generator
) -> None:
    """Pair the images with utterances; at least every other one asks for the image's colour or shape aloud."""
    asking = [u for u in speech if set(u.sentence) & set(ATTRIBUTES)]
    plain = [u for u in speech if not set(u.sentence) & set(ATTRIBUTES)]
    rows = []
    for index, (image, colour, shape) in enumerate(images[:NUM_MIXED]):
        utterance = (asking if index % 2 == 0 else plain)[index // 2]
        question = tasks.ask_mixed(utterance.sentence, colour, shape, rng, spoken_share=1.0)
        rows.append({"id": f"mixed-{index:03d}", "audio": utterance.audio, "image": image, **_asked(question)})
    folder.write("mixed_report", rows, "utterances of asr_report with the images of caption_report")


def _calibration_audio(index: int, utterance: Utterance, rng: np.random.Generator) -> Row:
    question = tasks.ask(str(rng.choice(tasks.QUESTION_KINDS)), utterance.sentence, rng) if index % 3 == 0 else None
    prompt, answer = (
        (question.prompt, question.answer) if question else (tasks.TRANSCRIBE, " ".join(utterance.sentence))
    )
    row = _calibration_row("audio", index, prompt, answer)
    return {**row, "audio": utterance.audio, "speaker": utterance.voice.speaker}


def _calibration_video(index: int, rng: np.random.Generator) -> Row:
    image, colour, shape = draw_random(rng)
    question = tasks.ask_image(colour, shape, rng)
    row = _calibration_row("video", index, question.prompt, question.answer)
    name = f"video-{index:03d}"
    if index >= NUM_VIDEOS:
        return {**row, "image": encode_image(name, image)}
    frames = [encode_image(f"{name}-{frame}", draw_image(colour, shape, rng)) for frame in range(4)]
    return {**row, "video": frames}


def _calibration_mixed(index: int, utterance: Utterance, rng: np.random.Generator) -> Row:
    image, colour, shape = draw_random(rng)
    question = tasks.ask_mixed(utterance.sentence, colour, shape, rng)
    row = _calibration_row("mixed", index, question.prompt, question.answer)
    drawn = encode_image(f"mixed-{index:03d}", image)
    return {**row, "audio": utterance.audio, "speaker": utterance.voice.speaker, "image": drawn}


def _calibration_row(modality: str, index: int, prompt: str, answer: str) -> Row:
    return {"id": f"{modality}-{index:03d}", "modality": modality, "question": prompt, "text": answer}


if __name__ == "__main__":
    main()
