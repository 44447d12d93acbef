"""Make model folders readable for other programs: ``config.json`` and the tokenizer next to facetrm's manifest.

With these files, ``AutoTokenizer`` loads the folder, and after ``import facetrm`` so does
``AutoModelForSequenceClassification``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from facetrm.backbone.encoder import Encoder, Portable
from facetrm.core.errors import BackboneError
from facetrm.core.files import write_json
from facetrm.core.progress import log

MODEL_TYPE: Final = "facetrm"
OWN_ARCHITECTURE: Final = "FacetrmForSequenceClassification"
CONFIG: Final = "config.json"
RIVAL_MANIFEST: Final = "rival.json"  # of a scorer that is no reward model; facetrm.baselines.load_rival reads it


def holds_rival(folder: Path) -> bool:
    """Return whether a folder, or the ``model`` folder of a run, holds a scorer that is no reward model.

    Args:
        folder: the folder.
    """
    return any((place / RIVAL_MANIFEST).is_file() for place in (folder, folder / "model"))


@runtime_checkable
class PortableTokenizer(Protocol):
    """An encoder that can save its tokenizer for other programs."""

    def save_tokenizer(self, folder: Path) -> Portable:
        """Write the tokenizer's files to ``folder`` and return the special tokens.

        Raises:
            BackboneError: other programs would not produce the same ids; the message says why.
        """


def open_to_others(folder: Path, encoder: Encoder, objectives: Sequence[str], *, adapters: Sequence[str] = ()) -> None:
    """Write ``config.json`` and the tokenizer, or log why other programs cannot use the model.

    Args:
        folder: the model folder.
        encoder: the encoder of the model.
        objectives: the names of the objectives of all tasks.
        adapters: the names of the experts' adapters. If there are any, nothing is written, because a Transformers
            classifier makes a single pass without them.
    """
    (folder / CONFIG).unlink(missing_ok=True)
    if adapters:
        log("no config.json for other programs", reason=f"the experts use {len(adapters)} adapters")
        return
    if not isinstance(encoder, PortableTokenizer):
        return
    try:
        ids = encoder.save_tokenizer(folder)
    except BackboneError as exc:
        log("no config.json for other programs", reason=exc.problem)
        return
    config = {
        "model_type": MODEL_TYPE,
        "architectures": [OWN_ARCHITECTURE],
        "id2label": {str(k): name for k, name in enumerate(objectives)},
        "label2id": {name: k for k, name in enumerate(objectives)},
        "problem_type": "regression",
        "pad_token_id": ids.pad,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "gating_token_pattern": list(ids.pattern),
        "response_header": list(ids.header),
        "opening_token_id": ids.opening,
        "hidden_size": encoder.hidden_size,
    }
    write_json(folder / CONFIG, config)
