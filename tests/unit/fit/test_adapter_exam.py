"""The exam of tests/exam_rows.py in small: adapters learn what a linear head cannot read, and nothing from a lottery.

benchmarks/adapters.py is the exam at full length, beside plain PEFT.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exam_rows import exam_encoder, exam_rows
from facetrm.backbone.lora.adapters import LoraSettings
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.experts.adapters import ExpertFit, fit_adapter
from facetrm.fit.experts.config import ExpertConfig
from facetrm.fit.experts.held_out import ranked_accuracy
from facetrm.recipes.dmoerm.inner import encode_pairs, linear_head, pair_shares

LORA = LoraSettings(rank=8, alpha=16.0)


def sat(rule: str, folder: Path, *, pairs: int = 500, random_start: bool = False, **given):
    """Return the encoder with the adapter ``own``, its fit, and its accuracy on other pairs."""
    encoder = exam_encoder(hidden=48)

    def probe(rows):
        return linear_head(encode_pairs(encoder, rows), BradleyTerryConfig(folds=3), weights=pair_shares(rows))

    config = ExpertConfig.model_validate(
        {"min_steps": 150, "trainer": {"max_steps": 150, "learning_rate": 2e-3, "use_cpu": True}, **given}
    )
    rows = exam_rows(rule, pairs, seed=0)
    fit = fit_adapter(
        encoder, rows, name="own", head=probe, lora=LORA, config=config, folder=folder, random_start=random_start
    )
    return encoder, fit, ranked_accuracy(encoder, exam_rows(rule, 300, seed=1), name="own", head_D=fit.head_D)


@pytest.mark.parametrize("random_start", [False, True])
def test_exclusive_or_is_learned_which_a_linear_head_cannot_read(tmp_path, random_start):
    encoder, fit, right = sat("xor", tmp_path / "t", random_start=random_start)
    assert fit.start < 0.85, "the linear head"
    assert right >= 0.95
    assert fit.kept
    assert fit.change > 0.01
    assert fit.steps >= 100
    # Its vectors are not the trunk's.
    rows = [p.chosen for p in exam_rows("xor", 20, seed=2)]
    bare = encoder.encode(rows).response_NAD[:, 0]
    own = encoder.encode(rows, adapters=["own"]).response_NAD[:, 0]
    assert float(((own - bare).norm(dim=1) / bare.norm(dim=1)).mean()) == pytest.approx(fit.change, rel=0.5)


def test_a_lottery_keeps_the_linear_start(tmp_path):
    encoder, fit, right = sat("lot", tmp_path / "t", pairs=300)
    assert (fit.kept, fit.change, fit.best_step) == (False, 0.0, 0)
    assert (fit.loss, fit.accuracy) == (fit.start_loss, fit.start)
    assert right == pytest.approx(0.5, abs=0.1)
    rows = [p.chosen for p in exam_rows("lot", 20, seed=2)]
    assert torch.equal(encoder.encode(rows).response_NAD, encoder.encode(rows, adapters=["own"]).response_NAD)


def test_what_a_linear_head_reads_needs_no_adapter(tmp_path):
    _, fit, right = sat("word", tmp_path / "t", pairs=300)
    assert isinstance(fit, ExpertFit)
    assert not fit.kept
    assert right == 1.0


def test_five_steps_teach_nothing_and_are_not_kept(tmp_path):
    """The fault that this rule comes from: a handful of steps, and the expert was called an adapter."""
    _, fit, _ = sat("xor", tmp_path / "t", trainer={"max_steps": 5, "learning_rate": 1e-4, "use_cpu": True})
    assert fit.steps == 5
    assert not fit.kept
