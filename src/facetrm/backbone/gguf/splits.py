"""How the vocabularies of GGUF files cut text into words before merging, by the name in ``tokenizer.ggml.pre``.

A byte-level vocabulary works only with the cuts that it was trained with; the file does not hold them, only their name.
The names and cuts are those of llama.cpp. Where the original tokenizer also normalises text to NFC, so does the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT: Final = r"\p{N}"
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3: Final = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2: Final = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD, _SLASHED = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN: Final = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHED}"
_GPT4O: Final = rf"{_LEAD}{_UPPER}*{_LOWER}+{_SHORT}?|{_LEAD}{_UPPER}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}|{_SLASHED}"


@dataclass(frozen=True)
class Splits:
    """How one kind of vocabulary reads text.

    Attributes:
        patterns: Regular expressions that cut the text, one after the other.
        whole: Whether a word that is in the vocabulary becomes one token even if no merges lead to it.
        bos: Whether the tokenizer writes BOS where the file does not say.
        nfc: Whether text is normalised to NFC first.
    """

    patterns: tuple[str, ...]
    whole: bool = False
    bos: bool = False
    nfc: bool = False

    def pre_tokenizer(self) -> PreTokenizer:
        """Return the pre-tokenizer for a byte-level vocabulary."""
        cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def normalizer(self) -> Normalizer | None:
        """Return the normaliser; None if text is read as it is."""
        return normalizers.NFC() if self.nfc else None


def _named(names: str, splits: Splits) -> Iterable[tuple[str, Splits]]:
    return ((name, splits) for name in names.split())


UNKNOWN_CUT: Final = Splits((_GPT2,))
"""What is used where the file names no known recipe: the cuts of GPT-2."""

SPLITS: Final = dict(
    [
        *_named("gpt-2 phi-2 olmo mpt jais trillion gigachat mellum granite-docling exaone4", Splits((_GPT2,))),
        *_named("smollm starcoder refact codeshell exaone minerva-7b", Splits((_DIGIT, _GPT2))),
        *_named("command-r", Splits((_DIGIT, _GPT2), nfc=True)),
        *_named("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2", Splits((_LLAMA3,), True, True)),
        *_named("dbrx smaug-bpe", Splits((_LLAMA3,))),
        *_named("tekken", Splits((_TEKKEN,), whole=True, bos=True)),
        *_named("qwen2 deepseek-r1-qwen", Splits((_QWEN2,), nfc=True)),
        *_named("gpt-4o llama4", Splits((_GPT4O,))),
    ]
)
"""The known recipes by name."""
