"""Floor 4: the rivals of a gated model: baselines on the same features, judges, and trained systems."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "STEERLM_WEIGHTS",
    "DirectionalScorer",
    "Ensemble",
    "ImplicitRewardScorer",
    "JudgeFailure",
    "JudgeScorer",
    "LengthCalibrated",
    "LengthCurve",
    "LengthScorer",
    "OracleScorer",
    "PairwiseScorer",
    "RandomScorer",
    "RatingJudge",
    "Vote",
    "best_objective",
    "direction_of_angle",
    "ensemble_rewards",
    "error_correlation",
    "fit_direction",
    "fit_ensemble",
    "fit_length_calibration",
    "load_rival",
    "longer_mixture",
    "unconditional_mixture",
    "uniform_mixture",
]

if TYPE_CHECKING:
    from facetrm.baselines.directional import STEERLM_WEIGHTS, DirectionalScorer, direction_of_angle, fit_direction
    from facetrm.baselines.ensemble import Ensemble, ensemble_rewards, error_correlation, fit_ensemble
    from facetrm.baselines.judges.judge import JudgeScorer, RatingJudge
    from facetrm.baselines.judges.store import JudgeFailure
    from facetrm.baselines.judges.vote import Vote
    from facetrm.baselines.length import longer_mixture
    from facetrm.baselines.length_calibration import LengthCalibrated, LengthCurve, fit_length_calibration
    from facetrm.baselines.plain import LengthScorer, OracleScorer, RandomScorer
    from facetrm.baselines.trained.implicit import ImplicitRewardScorer
    from facetrm.baselines.trained.pairwise import PairwiseScorer
    from facetrm.baselines.trained.rivals import load_rival
    from facetrm.baselines.weighting import best_objective, unconditional_mixture, uniform_mixture
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.baselines.directional": [
                "STEERLM_WEIGHTS",
                "DirectionalScorer",
                "direction_of_angle",
                "fit_direction",
            ],
            "facetrm.baselines.ensemble": ["Ensemble", "ensemble_rewards", "error_correlation", "fit_ensemble"],
            "facetrm.baselines.judges.judge": ["JudgeScorer", "RatingJudge"],
            "facetrm.baselines.judges.store": ["JudgeFailure"],
            "facetrm.baselines.judges.vote": ["Vote"],
            "facetrm.baselines.length": ["longer_mixture"],
            "facetrm.baselines.length_calibration": ["LengthCalibrated", "LengthCurve", "fit_length_calibration"],
            "facetrm.baselines.plain": ["LengthScorer", "OracleScorer", "RandomScorer"],
            "facetrm.baselines.trained.implicit": ["ImplicitRewardScorer"],
            "facetrm.baselines.trained.pairwise": ["PairwiseScorer"],
            "facetrm.baselines.trained.rivals": ["load_rival"],
            "facetrm.baselines.weighting": ["best_objective", "unconditional_mixture", "uniform_mixture"],
        },
    )
