"""The tokenizer: byte-level, one token for each word of the tasks, and Qwen3-Omni's special tokens and chat format.

A word exists twice, bare and with a leading space, as in GPT-style vocabularies; everything else falls back to bytes,
so any text round-trips. ``ignore_merges`` makes a whole word one token without a merge table.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tools.tiny_omni.words import SHAPES, SPOKEN

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
)
PROMPT_WORDS = (
    *("system", "user", "assistant", "transcribe", "Transcribe", "the", "English", "audio", "into", "text"),
    *("first", "second", "last", "word", "words", "how", "many", "which", "animal", "number", "or"),
    *("describe", "image", "answer", "question", "and", "What", "is", "in", "it"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'audio' or 'audio' in part or 'audio_url' in part %}"
    "{{ '<|audio_start|><|audio_pad|><|audio_end|>' }}"
    "{% elif part.type == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part.type == 'video' or 'video' in part %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MODALITY_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer with its chat template; the order of the vocabulary is fixed by the word lists."""
    words = list(dict.fromkeys((*SPOKEN, *SHAPES, *PROMPT_WORDS)))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words, *(f"Ġ{word}" for word in words)]
    unique = list(dict.fromkeys(pieces))
    model = models.BPE(vocab={piece: index for index, piece in enumerate(unique)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        extra_special_tokens=_MODALITY_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
