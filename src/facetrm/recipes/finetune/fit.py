"""Stage 1 by fine-tuning, as a straight line: trunk and heads are trained together, and compared with a frozen trunk.

    ratings, preferences -> heads on the frozen trunk -> trunk + heads, trained together -> model

RUN/
  config.resolved.yaml    every setting, including defaults
  frozen.safetensors      the closed-form heads on the frozen trunk
  training/               checkpoints during training; settings.json, log.jsonl, trained.safetensors
  adapter/ or backbone/   the trained adapter (PEFT's format), or the trained (or merged) trunk
  heads.safetensors       the trained heads: weight_KD, bias_K, preference_D
  model/                  the model for ``facetrm score`` and ``facetrm explain``
  metrics.json            figures of the trained and of the frozen trunk
  pair.jsonl              the explained pair

With several processes (``accelerate launch -m facetrm run ...``), all of them train and the first does the rest.

Shapes: N rows or pairs, D hidden size, K objectives.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from facetrm.backbone.lora.adapters import merge_adapter, save_adapter
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.files import write_bytes, write_json
from facetrm.core.fingerprint import fingerprint
from facetrm.core.progress import log
from facetrm.data.objectives import label_matrix
from facetrm.data.read.files import write_records
from facetrm.data.records import Conversation, Preference
from facetrm.data.world import World
from facetrm.evaluate.compare import Pairs, typical_pair
from facetrm.evaluate.stored_pairs import StoredPairs
from facetrm.fit.blocks import FeatureStream
from facetrm.fit.bradley_terry import fit_bradley_terry_blocks
from facetrm.fit.finetune.fit import fine_tune, load_trained
from facetrm.fit.finetune.model import TrainableHeads
from facetrm.fit.finetune.rows import MixedRows
from facetrm.fit.gate.fixed import fixed_mixture
from facetrm.fit.gate.unconditional import fit_beta
from facetrm.fit.heads.ridge import fit_linear_experts
from facetrm.fit.rankings import preference_weights
from facetrm.hub.card import write_card
from facetrm.model.experts import LinearExperts
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from facetrm.model.validity import VALIDITY
from facetrm.recipes.armorm.fit import Stopwatch, conversations, readable_rows, stream_of
from facetrm.recipes.armorm.heads import preference_expert, rated_chunks
from facetrm.recipes.armorm.rows import Rows, load_rows
from facetrm.recipes.backbones import train_tiny
from facetrm.recipes.finetune.config import FineTuneRecipe
from facetrm.recipes.finetune.figures import FineTuneFigures, judge_heads, training_figures
from facetrm.recipes.reading import Reading, as_ties
from facetrm.recipes.run_folder import RunFolder, run_folder

_OTHER: Final = "give another run folder"
MERGE_BOUND: Final = 0.02  # largest change of a unit score by merging, in a trunk of bfloat16; float32 is below 1e-4


@dataclass(frozen=True)
class FineTuneRun:
    """A finished fine-tuning run.

    Attributes:
        folder: Folder of the run.
        metrics: Content of ``metrics.json``.
        model: The saved model.
        figures: Figures of the heads on the held-out rows.
        explained: The test pair that is explained.
        reading: Counts of truncated conversations and of pairs that read the same.
    """

    folder: Path
    metrics: dict[str, Any]
    model: RewardModel
    figures: FineTuneFigures
    explained: Preference
    reading: Reading | None = None


def run_finetune(config: FineTuneRecipe, folder: Path) -> FineTuneRun | None:
    """Train, evaluate and save one fine-tuned model.

    Args:
        config: Settings of the run.
        folder: Folder of the run; existing results are reused, and training resumes.

    Returns:
        The run; None in every process but the first.

    Raises:
        StoreError: Another run uses the folder.
        FacetrmError: A step failed; the error names value, place and fix.
    """
    here = PartialState(cpu=_on_cpu(config))
    with run_folder(folder, config, main=here.is_main_process) as held:
        return _run_finetune(config, held, here)


def _run_finetune(config: FineTuneRecipe, held: RunFolder, here: PartialState) -> FineTuneRun | None:
    watch, folder = Stopwatch(), held.path
    with watch("data"):
        rows = load_rows(config.data, seed=config.seed)
        _check_labels(config, rows)
    with here.main_process_first():
        held.begin()
        with watch("backbone"):
            base = _base(config, rows, folder)
            encoder = load_encoder(base)
        with watch("reading"):
            rows = readable_rows(rows, encoder)
        with watch("frozen"):
            frozen = _frozen_heads(config, rows, encoder, folder)
    with watch("training"):
        heads = _new_heads(config, rows, encoder.hidden_size, start=frozen if config.frozen.start else None)
        examples = MixedRows(
            encoder, ratings=rows.heads, objectives=rows.objectives, preferences=rows.gate, config=config.finetune
        )
        spent = fine_tune(encoder, heads, examples, config=config.finetune, folder=folder / "training", data=rows.hash)
        del encoder
    if not here.is_main_process:
        return None
    held.keep_settings()
    with watch("save"):
        tuned, heads, merged = _write_trained(config, rows, base, folder)
    with watch("encode"):
        sample = _pairs(_sample(rows.gate, config.reward.sample), stream_of(tuned), tuned)
        test = _test_pairs(rows, stream_of(tuned), tuned)
        rated = tuned.encode([r.messages for r in rows.heads_test])
    mixture = _mixture(config, rows, heads, sample)
    model = RewardModel(
        tuned,
        {"all": mixture},
        provenance={"recipe": config.model_dump(mode="json", exclude={"features": {"folder"}}), "data": rows.hash},
    )
    with watch("statistics"):
        before = None
        if frozen is not None:
            store = FeatureStore(_features_folder(config, folder))
            before = (
                frozen,
                _test_pairs(rows, store.stream, tuned),
                store.features([r.messages for r in rows.heads_test]),
            )
        figures = judge_heads(config, rows, mixture, heads, after=(test, rated), before=before)
        found = {report.name: report.validity.to_dict() for report in figures.objectives}
        model = model.with_mixture(mixture, provenance={VALIDITY: found})
    with watch("save"):
        model.save(folder / "model", backbone=config.save_backbone)
        explained = typical_pair(rows.test, mixture.margins(test.chosen, test.rejected).numpy())
        write_records(folder / "pair.jsonl", [explained])
        for checkpoint in (folder / "training").glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    values = training_figures(config, rows, model, figures, spent=spent, merged=merged, seconds=watch.seconds)
    write_json(folder / "metrics.json", values)
    write_card(folder / "model", model, metrics=values, name=folder.name)
    return FineTuneRun(folder, values, model, figures, explained, rows.reading)


def _on_cpu(config: FineTuneRecipe) -> bool:
    return config.tiny is not None or (config.backbone is not None and config.backbone.device == "cpu")


def _check_labels(config: FineTuneRecipe, rows: Rows) -> None:
    """Raise FitError if an objective has no training ratings."""
    if config.finetune.regression == 0:
        return
    rated = {name for r in rows.heads for name in r.ratings}
    bare = [o.name for o in rows.objectives if o.name not in rated]
    if bare:
        raise FitError(
            f"no training row rates it (objectives without ratings: {len(bare)})",
            place=f"objective '{bare[0]}'",
            fix="give rows that rate it, or declare only objectives with ratings",
        )


def _base(config: FineTuneRecipe, rows: Rows, folder: Path) -> BackboneConfig:
    """Return the settings of the trunk that training starts from; a tiny one is trained here, once."""
    if config.tiny is not None and isinstance(rows.world, World):
        encoder, _ = train_tiny(config.tiny, rows.world, folder / "base", seed=config.seed)
        return encoder.config
    if config.backbone is None:
        raise ConfigError("no backbone", place="recipe", fix="give the section 'backbone' or 'tiny'")
    if config.finetune.method == "full" and config.backbone.dtype == "auto":
        return config.backbone.model_copy(update={"dtype": "float32"})  # in bfloat16, small updates would be lost
    return config.backbone


def _features_folder(config: FineTuneRecipe, folder: Path) -> Path:
    kept = config.frozen.features.folder
    return folder / "features" if kept is None else Path(kept)


def _pairs(preferences: Sequence[Preference], stream: FeatureStream, encoder: TransformerEncoder) -> Pairs:
    return StoredPairs.of(preferences, stream, hidden_size=encoder.hidden_size).whole()


def _test_pairs(rows: Rows, stream: FeatureStream, encoder: TransformerEncoder) -> Pairs:
    """Return the test pairs; those whose answers read the same are ties."""
    return as_ties(_pairs(rows.test, stream, encoder), () if rows.reading is None else rows.reading.equal_test)


def _frozen_heads(
    config: FineTuneRecipe, rows: Rows, encoder: TransformerEncoder, folder: Path
) -> TrainableHeads | None:
    """Return the closed-form heads on the frozen trunk; reuse those in the run folder."""
    section, path = config.frozen, folder / "frozen.safetensors"
    if not section.fit:
        return None
    store = encode(
        encoder,
        conversations(rows),
        _features_folder(config, folder),
        shard_rows=section.features.shard_rows,
        dtype=section.features.dtype,
    )
    heads = _new_heads(config, rows, encoder.hidden_size, start=None)
    wanted = section.model_dump(mode="json", exclude={"features", "start"})
    key = fingerprint([encoder.fingerprint, rows.hash, wanted, sorted(_tensors(heads))])
    if path.exists():
        with safe_open(path, framework="pt") as handle:
            known = handle.metadata()
        if known != {"key": key}:
            raise FitError("holds heads of another backbone, other data or other settings", place=path, fix=_OTHER)
        return _with_tensors(heads, load_tensors(path.read_bytes()))
    tensors: dict[str, Tensor] = {}
    if config.finetune.regression > 0:
        fit = fit_linear_experts(
            rated_chunks(rows.heads, store.stream, hidden_size=encoder.hidden_size),
            label_matrix(rows.heads, rows.objectives),
            objectives=rows.objectives,
            groups=[r.prompt_key for r in rows.heads],
            config=section.ridge,
        )
        tensors |= {"weight_KD": fit.experts.weight_KD, "bias_K": fit.experts.bias_K}
    if config.finetune.preference > 0:
        pairs = StoredPairs.of(rows.gate, store.stream, hidden_size=encoder.hidden_size)
        linear = fit_bradley_terry_blocks(
            pairs, groups=pairs.groups, config=section.linear, weights=preference_weights(rows.gate), folder=folder
        )
        tensors["preference_D"] = linear.mixture.linear_experts.weight_KD[0]
    heads = _with_tensors(heads, tensors)
    write_bytes(path, save_tensors(_tensors(heads), metadata={"key": key}))
    return heads


def _new_heads(config: FineTuneRecipe, rows: Rows, hidden_size: int, *, start: TrainableHeads | None) -> TrainableHeads:
    objectives = len(rows.objectives) if config.finetune.regression > 0 else 0
    heads = TrainableHeads(
        hidden_size, objectives, preference=config.finetune.preference > 0, seed=config.finetune.seed
    )
    return heads if start is None else _with_tensors(heads, _tensors(start))


def _tensors(heads: TrainableHeads) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(heads.state_dict().items())}


def _with_tensors(heads: TrainableHeads, tensors: dict[str, Tensor]) -> TrainableHeads:
    """Copy ``tensors`` into ``heads`` and return it."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            heads.state_dict()[name].copy_(tensor)
    return heads


def _write_trained(
    config: FineTuneRecipe, rows: Rows, base: BackboneConfig, folder: Path
) -> tuple[TransformerEncoder, TrainableHeads, float | None]:
    """Write the trained parts in standard formats, and load the encoder from there.

    Returns:
        Encoder, heads, and the largest change of a unit score by merging the adapter (None if nothing was merged).
    """
    encoder = load_encoder(base)
    heads = _new_heads(config, rows, encoder.hidden_size, start=None)
    load_trained(encoder, heads, config=config.finetune, folder=folder / "training")
    heads = heads.cpu()
    write_bytes(folder / "heads.safetensors", save_tensors(_tensors(heads)))
    changed, written = None, base
    if config.finetune.method == "lora":
        save_adapter(encoder.model, folder / "adapter", replace=True)
        written = base.model_copy(update={"adapter": str(folder / "adapter")})
    if config.merge:
        few = [c for p in rows.test[:32] for c in (p.chosen, p.rejected)]
        before = _scores(encoder, heads, few)
        merge_adapter(encoder.model)
        gap = (_scores(encoder, heads, few) - before).abs()
        changed = float(gap.max()) if gap.numel() else 0.0
        log("merge", largest_change_of_a_score=changed)
        if not changed <= MERGE_BOUND:
            raise FitError(
                f"merging changes a score by {changed:.2g}, more than {MERGE_BOUND}",
                place=folder,
                fix="set merge: false, or backbone.dtype: float32",
            )
    if config.merge or config.finetune.method == "full":
        written = encoder.save_backbone(folder / "backbone", replace=True)
    del encoder
    return load_encoder(written), heads, changed


def _scores(encoder: TransformerEncoder, heads: TrainableHeads, rows: Sequence[Conversation]) -> Tensor:
    """Return unit ratings of each row, and its probability of being preferred to the first row, [N, K + 1]."""
    features_ND = encoder.encode(rows).response_NAD[:, 0]
    with torch.no_grad():
        odds_N = heads.prefer(features_ND) if heads.has_preference else features_ND.new_zeros(len(rows))
        return torch.cat([heads.rate(features_ND), torch.sigmoid(odds_N - odds_N[0])[:, None]], dim=1)


def _sample(preferences: Sequence[Preference], count: int) -> list[Preference]:
    """Return ``count`` pairs at even distances in the list."""
    step = max(len(preferences) / count, 1.0)
    return [preferences[int(n * step)] for n in range(min(count, len(preferences)))]


def _mixture(config: FineTuneRecipe, rows: Rows, heads: TrainableHeads, sample: Pairs) -> Mixture:
    """Return a mixture of the heads with fixed weights; a sample of training pairs sets scale and reference."""
    objectives = rows.objectives if config.finetune.regression > 0 else ()
    experts = LinearExperts(objectives, heads.weight_KD.detach(), heads.bias_K.detach())
    share = config.reward.preference if objectives else 1.0
    gated = [o.gated for o in objectives]
    if heads.has_preference:
        experts = preference_expert(experts, heads.preference_D.detach()[None].double(), sample)
    else:
        share = 0.0
    if share < 1 and not any(gated):
        raise FitError("no objective has a known direction", place="reward", fix="declare at least one direction")
    weights = [(1 - share) * flag / max(sum(gated), 1) for flag in gated] + [share] * heads.has_preference
    with torch.no_grad():
        reference_K = experts(sample.both()).double().mean(dim=0).float()
    matrix = torch.eye(len(weights))
    mixture = fixed_mixture(experts, matrix, weights_K=weights, reference_K=reference_K)
    beta = fit_beta(mixture.margins(sample.chosen, sample.rejected).numpy())
    return fixed_mixture(experts, matrix, weights_K=weights, beta=beta, reference_K=reference_K)
