"""Draws training batches: which utterances, which task each gets, which images are drawn for them."""

import numpy as np

from tools.tiny_omni import tasks
from tools.tiny_omni.augment import Augmenter
from tools.tiny_omni.batches import Batch, Collator, Example
from tools.tiny_omni.corpus import Corpus
from tools.tiny_omni.images import draw_image, draw_random, pixel_values
from tools.tiny_omni.tokenizer import build_tokenizer

_BATCHES_SORTED_TOGETHER = 8
_QUESTION_SHARES = (0.13, 0.17, 0.13, 0.18, 0.13, 0.13, 0.13)


class ExampleStream:
    """An endless stream of batches of each modality, a function of the corpus and the seed."""

    def __init__(self, corpus: Corpus, rng: np.random.Generator, augmentation: float) -> None:
        self.corpus = corpus
        self.rng = rng
        self.collate = Collator(build_tokenizer())
        self.augment = Augmenter(rng, augmentation)
        self.num_words = np.array([len(sentence) for sentence in corpus.sentences])
        self._queue: list[np.ndarray] = []
        self._queued_max_words = 0

    def audio(self, size: int, max_words: int, question_share: float) -> Batch:
        """Return utterances of at most ``max_words`` words, similar in length, to transcribe or with a question."""
        return self.collate([self._about_audio(int(i), question_share) for i in self._utterances(size, max_words)])

    def video(self, size: int) -> Batch:
        """Return drawn images; one batch in eight holds videos of two or four frames instead."""
        as_videos = self.rng.random() < 0.125
        return self.collate([self._about_image(as_videos) for _ in range(size)])

    def mixed(self, size: int, max_words: int) -> Batch:
        """Return pairs of an utterance and an image, in either order, with a question that needs both."""
        image_first = bool(self.rng.random() < 0.5)
        return self.collate([self._about_both(int(i), image_first) for i in self._utterances(size, max_words)])

    def _utterances(self, size: int, max_words: int) -> np.ndarray:
        """Return indices of utterances similar in length: a few batches are drawn together and sorted."""
        if not self._queue or self._queued_max_words != max_words or len(self._queue[-1]) < size:
            allowed = np.flatnonzero(self.num_words <= max_words)
            drawn = self.rng.choice(allowed, size=size * _BATCHES_SORTED_TOGETHER)
            lengths = self.corpus.starts[drawn + 1] - self.corpus.starts[drawn]
            batches = drawn[np.argsort(lengths)].reshape(_BATCHES_SORTED_TOGETHER, size)
            self._queue = [batches[i] for i in self.rng.permutation(_BATCHES_SORTED_TOGETHER)]
            self._queued_max_words = max_words
        return self._queue.pop()[:size]

    def _about_audio(self, index: int, question_share: float) -> Example:
        sentence = self.corpus.sentences[index]
        mel = self.augment(self.corpus.mel(index))
        if self.rng.random() < question_share:
            kind = str(self.rng.choice(tasks.QUESTION_KINDS, p=_QUESTION_SHARES))
            question = tasks.ask(kind, sentence, self.rng) or tasks.ask("first", sentence, self.rng)
            if question is not None:
                return Example(tasks.reworded(question, self.rng), question.answer, mel=mel, sentence=sentence)
        prompt = tasks.TRANSCRIBE if self.rng.random() < 0.85 else tasks.TRANSCRIBE_LONG
        return Example(prompt, " ".join(sentence), mel=mel, sentence=sentence)

    def _about_image(self, as_video: bool) -> Example:
        image, colour, shape = draw_random(self.rng)
        frames = [image]
        if as_video:
            frames = [draw_image(colour, shape, self.rng) for _ in range(int(self.rng.choice([2, 4])))]
        question = tasks.ask_image(colour, shape, self.rng)
        attributes = None if as_video else (colour, shape)
        patches = pixel_values(frames)
        return Example(question.text, question.answer, patches=patches, is_video=as_video, attributes=attributes)

    def _about_both(self, index: int, image_first: bool) -> Example:
        sentence = self.corpus.sentences[index]
        image, colour, shape = draw_random(self.rng)
        question = tasks.ask_mixed(sentence, colour, shape, self.rng)
        return Example(
            question.text,
            question.answer,
            mel=self.augment(self.corpus.mel(index)),
            sentence=sentence,
            patches=pixel_values([image]),
            attributes=(colour, shape),
            image_first=image_first,
        )
