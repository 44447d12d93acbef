"""Floor 4: fit heads, gates, routers, adapters and backbones from data and features."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "BackboneTraining",
    "BradleyTerryConfig",
    "ConcatConfig",
    "ConcatFit",
    "Debias",
    "DebiasConfig",
    "ExpertConfig",
    "ExpertFit",
    "FineTuneConfig",
    "GateConfig",
    "GateFit",
    "LinearFit",
    "RidgeConfig",
    "RouterConfig",
    "RouterFit",
    "ScoredPairs",
    "evaluate_experts",
    "evaluate_router",
    "fine_tune",
    "fit_adapter",
    "fit_beta",
    "fit_bradley_terry",
    "fit_concat_mlp",
    "fit_debias",
    "fit_gate",
    "fit_linear_experts",
    "fit_router",
    "fit_unconditional",
    "router_rows",
    "score_pairs",
    "train_backbone",
]

if TYPE_CHECKING:
    from facetrm.fit.backbone import BackboneTraining, train_backbone
    from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry
    from facetrm.fit.debias import Debias, DebiasConfig, fit_debias
    from facetrm.fit.experts.adapters import ExpertFit, fit_adapter
    from facetrm.fit.experts.concat import ConcatFit, fit_concat_mlp
    from facetrm.fit.experts.concat_start import ConcatConfig
    from facetrm.fit.experts.config import ExpertConfig
    from facetrm.fit.finetune.config import FineTuneConfig
    from facetrm.fit.finetune.fit import fine_tune
    from facetrm.fit.gate.config import GateConfig
    from facetrm.fit.gate.fit import GateFit, fit_gate
    from facetrm.fit.gate.unconditional import fit_beta, fit_unconditional
    from facetrm.fit.heads.ridge import LinearFit, RidgeConfig, evaluate_experts, fit_linear_experts
    from facetrm.fit.pairs import ScoredPairs, score_pairs
    from facetrm.fit.router.config import RouterConfig
    from facetrm.fit.router.fit import RouterFit, evaluate_router, fit_router
    from facetrm.fit.router.rows import router_rows
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.fit.backbone": ["BackboneTraining", "train_backbone"],
            "facetrm.fit.bradley_terry": ["BradleyTerryConfig", "fit_bradley_terry"],
            "facetrm.fit.debias": ["Debias", "DebiasConfig", "fit_debias"],
            "facetrm.fit.experts.adapters": ["ExpertFit", "fit_adapter"],
            "facetrm.fit.experts.concat": ["ConcatFit", "fit_concat_mlp"],
            "facetrm.fit.experts.concat_start": ["ConcatConfig"],
            "facetrm.fit.experts.config": ["ExpertConfig"],
            "facetrm.fit.finetune.config": ["FineTuneConfig"],
            "facetrm.fit.finetune.fit": ["fine_tune"],
            "facetrm.fit.gate.config": ["GateConfig"],
            "facetrm.fit.gate.fit": ["GateFit", "fit_gate"],
            "facetrm.fit.gate.unconditional": ["fit_beta", "fit_unconditional"],
            "facetrm.fit.heads.ridge": ["LinearFit", "RidgeConfig", "evaluate_experts", "fit_linear_experts"],
            "facetrm.fit.pairs": ["ScoredPairs", "score_pairs"],
            "facetrm.fit.router.config": ["RouterConfig"],
            "facetrm.fit.router.fit": ["RouterFit", "evaluate_router", "fit_router"],
            "facetrm.fit.router.rows": ["router_rows"],
        },
    )
