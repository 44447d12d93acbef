"""Ridge on streams: chunkings, degenerate objectives, reports, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrm.backbone.encoder import Features
from facetrm.core.config import parse_config
from facetrm.core.errors import ConfigError, FitError
from facetrm.core.statistics import pearson, spearman
from facetrm.data.objectives import Objective
from facetrm.fit.heads import gram, ridge_path
from facetrm.fit.heads.gram import Centre, Moments, gather_moments
from facetrm.fit.heads.label_blocks import label_blocks
from facetrm.fit.heads.objective_report import mean_spearman, report_objective
from facetrm.fit.heads.ridge import RidgeConfig, evaluate_experts, fit_linear_experts
from facetrm.fit.heads.ridge_path import NormalEquations
from facetrm.model.experts import LengthScale

OBJECTIVES = [Objective(name=f"o{k}", low=0, high=1, kind="continuous") for k in range(3)]
FAST = RidgeConfig(alphas=(0.1, 10.0, 1e3), folds=3, bootstrap=0)


def problem(n: int = 240, d: int = 12, noise: float = 0.5) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, d)) + 1.0
    y = x @ rng.normal(size=(d, 3)) + noise * rng.normal(size=(n, 3))
    y[rng.random((n, 3)) < 0.3] = np.nan
    return torch.from_numpy(x).float(), y, np.arange(n) // 2


def as_features(x: torch.Tensor) -> Features:
    n = len(x)
    return Features(torch.zeros_like(x), x[:, None], torch.arange(n), torch.arange(n), torch.zeros(n, dtype=torch.bool))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 239), max_size=6, unique=True))
def test_any_chunking_gives_the_same(cuts: list[int]) -> None:
    x, y, groups = problem()
    bounds = [0, *sorted(cuts), 240]
    chunks = [x[a:b] for a, b in itertools.pairwise(bounds)]
    whole = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=FAST)
    parts = fit_linear_experts(lambda: iter(chunks), y, objectives=OBJECTIVES, groups=groups, config=FAST)
    assert torch.allclose(whole.experts.weight_KD, parts.experts.weight_KD, rtol=1e-6, atol=1e-8)
    for one, other in zip(whole.reports, parts.reports, strict=True):
        assert one.alpha == other.alpha
        assert one.mse == pytest.approx(other.mse, rel=1e-9)


def test_sources_of_every_kind_agree() -> None:
    x, y, groups = problem()
    sources = [
        x,
        x[:, None],
        as_features(x),
        [x[:100], x[100:]],
        lambda: (as_features(x[i : i + 60]) for i in range(0, 240, 60)),
    ]
    heads = [
        fit_linear_experts(source, y, objectives=OBJECTIVES, groups=groups, config=FAST).experts.weight_KD
        for source in sources
    ]
    for head in heads[1:]:
        assert torch.allclose(head, heads[0], rtol=1e-6, atol=1e-8)


def test_one_pass_per_block_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = problem()
    y[:80, 1:] = np.nan
    y[80:160, ::2] = np.nan
    y[160:, :2] = np.nan
    passes: list[int] = []

    def source() -> Iterator[torch.Tensor]:
        passes.append(1)
        yield x

    many = fit_linear_experts(
        source, y, objectives=OBJECTIVES, groups=groups, config=FAST.model_copy(update={"gram_gib": 1e-9})
    )
    assert len(passes) == 1 + 3 + 1
    passes.clear()
    monkeypatch.setattr(gram, "_ROWS", 7)
    one = fit_linear_experts(source, y, objectives=OBJECTIVES, groups=groups, config=FAST)
    assert len(passes) == 1 + 1 + 1
    assert torch.allclose(many.experts.weight_KD, one.experts.weight_KD, rtol=1e-6, atol=1e-8)


def test_moments_are_the_matrix_of_sums() -> None:
    x, y, _ = problem()
    y[:, 1:] = np.nan
    blocks = label_blocks(np.isfinite(y))
    rows = np.isfinite(y[:, 0])
    weight = np.linspace(0.5, 2.0, len(y))
    for precision, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        (found,) = gather_moments(
            x,
            blocks,
            y,
            weights_N=weight,
            fold_N=np.arange(len(y)) % 2,
            centre=Centre(x[0].double(), torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)),
            precision=precision,
        )
        z = np.column_stack([x.double().numpy() - x[0].double().numpy(), np.ones(len(y)), y[:, 0] - 0.3])[rows]
        expected = (z * weight[rows, None]).T @ z
        assert set(found) == {(0, 0), (0, 1)}
        total = Moments.full(list(found.values())).numpy()
        assert np.abs(total - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("size", [1, 2, 3, 6, 40])
@pytest.mark.parametrize("intercept", [True, False])
def test_path_equals_direct_and_eigen_solutions(size: int, intercept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(np.column_stack([rng.normal(size=(50, size)) + 2, np.ones(50), rng.normal(size=(50, 2))]))
    alphas = (1e-4, 1.0, 1e3)

    def equations() -> NormalEquations:
        return NormalEquations(z.T @ z, hidden=size, columns=[0, 1], intercept=intercept)

    path = equations().path(alphas)
    assert path[0].shape == (3, size, 2)
    for p, alpha in enumerate(alphas):
        direct = equations().solve([alpha, alpha])
        for found, expected in zip((path[0][p], path[1][p]), direct, strict=True):
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(ridge_path, "_tridiagonal_path", lambda *_: None)
    assert torch.allclose(equations().path(alphas)[0], path[0], rtol=1e-9, atol=1e-12)


def test_singular_matrix_with_a_tiny_alpha_is_solved() -> None:
    x, _, _ = problem(d=3)
    x = x.double() - x.double().mean(dim=0)
    twins = torch.cat([x, x, -x], dim=1) * 1e3
    z = torch.cat([twins, torch.ones(len(x), 1), x[:, :1]], dim=1)
    for tiny in (1e-14, 1e-20):
        for found in (
            NormalEquations(z.T @ z, hidden=9, columns=[0], intercept=True).solve([tiny])[0],
            NormalEquations(z.T @ z, hidden=9, columns=[0], intercept=True).path([1.0, tiny])[0][1],
        ):
            assert torch.isfinite(found).all()


def test_report_is_out_of_fold() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(80, 60))).float(), rng.normal(size=(80, 3))
    config = RidgeConfig(alphas=(1e-4,), folds=5, bootstrap=50)
    fit = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=np.arange(80), config=config)
    seen = fit.experts.rate(x).numpy()
    for k, report in enumerate(fit.reports):
        assert pearson(seen[:, k], y[:, k]) > 0.8
        assert abs(report.pearson) < 0.4
        assert report.mse > report.mse_mean
        assert report.interval[0] < report.spearman < report.interval[1]


def test_report_counts_and_correlations() -> None:
    x, y, groups = problem()
    fit = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=FAST, length=LengthScale())
    for k, report in enumerate(fit.reports):
        rows = np.isfinite(y[:, k])
        assert (report.name, report.n, report.held_out) == (f"o{k}", rows.sum(), rows.sum())
        assert report.prompts == len(np.unique(groups[rows]))
        assert report.alpha in FAST.alphas
        assert report.mse < 0.2 * report.mse_mean
        assert report.pearson > 0.95
        assert float(fit.means_K[k]) == pytest.approx(y[rows, k].mean())
    assert fit.experts.names == ("o0", "o1", "o2", "length")
    assert mean_spearman(fit.reports) == pytest.approx(np.mean([r.spearman for r in fit.reports]))


def test_rows_of_one_prompt_share_a_fold() -> None:
    rng = np.random.default_rng(1)
    half = rng.normal(size=(60, 40))
    x = torch.from_numpy(np.repeat(half, 2, axis=0)).float()
    y = np.repeat(rng.normal(size=(60, 3)), 2, axis=0)
    config = RidgeConfig(alphas=(1e-3,), folds=5, bootstrap=0)
    leaky = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=np.arange(120), config=config)
    honest = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=np.arange(120) // 2, config=config)
    assert min(report.spearman for report in leaky.reports) > max(report.spearman for report in honest.reports) + 0.2


def test_weights_are_repeats_and_zero_leaves_out() -> None:
    x, y, groups = problem(n=60, d=4)
    times = np.arange(60) % 3
    config = RidgeConfig(alphas=(2.0,), folds=2, bootstrap=0)
    weighted = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=config, weights=times)
    rows = np.repeat(np.arange(60), times)
    repeated = fit_linear_experts(x[rows], y[rows], objectives=OBJECTIVES, groups=groups[rows], config=config)
    assert torch.allclose(weighted.experts.weight_KD, repeated.experts.weight_KD, atol=1e-6)
    assert torch.allclose(weighted.means_K, repeated.means_K)
    assert weighted.reports[0].n == int((np.isfinite(y[:, 0]) & (times > 0)).sum())


def test_float32_products_are_close() -> None:
    x, y, groups = problem()
    exact = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=FAST)
    quick = fit_linear_experts(
        x, y, objectives=OBJECTIVES, groups=groups, config=FAST.model_copy(update={"precision": "float32"})
    )
    assert torch.allclose(exact.experts.weight_KD, quick.experts.weight_KD, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", ["constant", "one prompt"])
def test_objective_that_cannot_be_fitted(case: str) -> None:
    x, y, groups = problem()
    if case == "constant":
        y[np.isfinite(y[:, 1]), 1] = 0.7
    else:
        y[:, 1] = np.nan
        y[:2, 1] = (0.6, 0.8)
    with pytest.raises(FitError, match=r"objective 'o1': (all .* labels are 0\.7|2 rated rows of 1 prompts)"):
        fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=FAST)
    config = FAST.model_copy(update={"unfit": "mean"})
    fit = fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=config)
    assert fit.experts.rate(x)[:, 1].numpy() == pytest.approx(np.full(240, 0.7))
    assert fit.reports[1].alpha is None
    assert "predicts its mean" in fit.reports[1].note
    assert fit.reports[1].to_dict()["spearman"] is None
    rest = fit_linear_experts(x, y[:, ::2], objectives=OBJECTIVES[::2], groups=groups, config=FAST)
    assert fit.reports[0].spearman == pytest.approx(rest.reports[0].spearman, abs=0.02)
    assert fit.reports[0].alpha is not None


def test_objective_without_labels_is_an_error_in_any_case() -> None:
    x, y, groups = problem()
    y[:, 2] = np.nan
    with pytest.raises(FitError, match="'o2': 0 rated rows"):
        fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=FAST.model_copy(update={"unfit": "mean"}))


def test_split_that_leaves_an_objective_on_one_side() -> None:
    x, y, groups = problem(n=40)
    y[:, 1] = np.nan
    y[:4, 1] = (0.1, 0.2, 0.3, 0.4)
    y[:4, [0, 2]] = np.nan
    config = RidgeConfig(folds=1, validation=0.02, bootstrap=0)
    with pytest.raises(FitError, match="one side of the split"):
        fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=config)


def test_advice_is_not_what_is_set_already() -> None:
    x, y, _ = problem(n=39)
    y[np.isnan(y)] = 0.5
    y[4:, 1] = np.nan  # two prompts rate it, each beside other objectives: both fall into one of two folds
    y[2:4, 0] = np.nan
    groups = [str(n) for n in range(39)]
    groups[1], groups[3] = groups[0], groups[2]
    with pytest.raises(FitError, match="one side of the split") as caught:
        fit_linear_experts(x, y, objectives=OBJECTIVES, groups=groups, config=RidgeConfig(folds=2, bootstrap=0))
    assert caught.value.fix == "rate more prompts, or set folds to a number other than 2"


def test_evaluate_on_rows_that_were_not_seen() -> None:
    x, y, groups = problem(n=400)
    fit = fit_linear_experts(
        x[:240], y[:240], objectives=OBJECTIVES, groups=groups[:240], config=FAST, length=LengthScale()
    )
    held = slice(240, None)
    reports = evaluate_experts(
        fit.experts, [x[240:300], x[300:]], y[held], groups=groups[held], means_K=fit.means_K, bootstrap=30
    )
    scores = fit.experts.rate(x[held]).numpy()
    for k, report in enumerate(reports):
        rows = np.isfinite(y[held, k])
        truth, seen = y[held, k][rows], scores[rows, k]
        assert report.alpha is None
        assert report.spearman == pytest.approx(spearman(seen, truth))
        assert report.mse == pytest.approx(np.mean((seen - truth) ** 2))
        assert report.mse_mean == pytest.approx(np.mean((float(fit.means_K[k]) - truth) ** 2))
        assert report.interval[0] < report.spearman < report.interval[1]
    assert len(reports) == 3
    own = evaluate_experts(fit.experts, x[held], y[held], groups=groups[held], bootstrap=0)
    assert own[0].mse_mean == pytest.approx(np.nanvar(y[held, 0]))


def test_report_without_any_label() -> None:
    nothing = report_objective("x", [1.0], labels_N=[np.nan], baseline_N=[0.0], groups_N=[0])
    assert (nothing.n, nothing.held_out) == (0, 0)
    assert nothing.to_dict()["mse"] is None
    assert np.isnan(mean_spearman([nothing]))


BAD_ROWS = {
    "one side": (lambda x, y, g: ((iter([x])), y, g, None), "read only once"),
    "rows": (lambda x, y, g: (x[:-1], y, g, None), "239 rows of features for 240"),
    "more rows": (lambda x, y, g: (x, y[:-1], g[:-1], None), "240 rows of features for 239"),
    "nan feature": (
        lambda x, y, g: (torch.where(torch.arange(240)[:, None] == 17, torch.nan, x), y, g, None),
        "row 17",
    ),
    "width": (lambda x, y, g: ([x[:100], x[100:, :5]], y, g, None), r"row 100: .*\[140, 5\]"),
    "adapters": (lambda x, y, g: (x[:, None].expand(-1, 2, -1), y, g, None), r"\[240, 2, 12\]"),
    "columns": (lambda x, y, g: (x, y[:, :2], g, None), r"labels \[240, 2\] for 3 objectives"),
    "infinite label": (lambda x, y, g: (x, np.where(y == y[3, 0], np.inf, y), g, None), "label inf"),
    "groups": (lambda x, y, g: (x, y, g[:9], None), r"groups: \[9\] for 240"),
    "weights": (lambda x, y, g: (x, y, g, np.where(np.arange(240) == 5, -1.0, 1.0)), "weights row 5: weight -1"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named(case: str) -> None:
    change, message = BAD_ROWS[case]
    x, y, groups = problem()
    y[3, 0] = 0.123
    source, labels, prompts, weights = change(x, y, groups)
    with pytest.raises(FitError, match=message):
        fit_linear_experts(source, labels, objectives=OBJECTIVES, groups=prompts, config=FAST, weights=weights)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"alphas": []}, "above 0"),
        ({"alphas": [0.0]}, "above 0"),
        ({"folds": 0}, "folds"),
        ({"refit": "train"}, "needs folds 1"),
        ({"alpha": 1}, "did you mean 'alphas'"),
    ],
)
def test_bad_settings_are_named(value: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(RidgeConfig, value, place="experts")
