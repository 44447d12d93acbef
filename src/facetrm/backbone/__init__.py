"""Floor 2: text to features. Only this floor and the backbone training in fit use Hugging Face classes."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "AdapterEncoder",
    "BackboneConfig",
    "BagOfWords",
    "Encoder",
    "FeatureStore",
    "Features",
    "LoraSettings",
    "TinyShape",
    "TransformerEncoder",
    "add_adapter",
    "encode",
    "load_adapter",
    "load_encoder",
    "save_adapter",
    "tiny_decoder",
    "word_tokenizer",
]

if TYPE_CHECKING:
    from facetrm.backbone.config import BackboneConfig
    from facetrm.backbone.encoder import AdapterEncoder, Encoder, Features
    from facetrm.backbone.lora.adapters import LoraSettings, add_adapter, load_adapter, save_adapter
    from facetrm.backbone.store import FeatureStore, encode
    from facetrm.backbone.tiny import TinyShape, tiny_decoder, word_tokenizer
    from facetrm.backbone.transformer import TransformerEncoder, load_encoder
    from facetrm.backbone.words import BagOfWords
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.backbone.config": ["BackboneConfig"],
            "facetrm.backbone.encoder": ["AdapterEncoder", "Encoder", "Features"],
            "facetrm.backbone.lora.adapters": ["LoraSettings", "add_adapter", "load_adapter", "save_adapter"],
            "facetrm.backbone.store": ["FeatureStore", "encode"],
            "facetrm.backbone.tiny": ["TinyShape", "tiny_decoder", "word_tokenizer"],
            "facetrm.backbone.transformer": ["TransformerEncoder", "load_encoder"],
            "facetrm.backbone.words": ["BagOfWords"],
        },
    )
