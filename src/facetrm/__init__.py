"""Reward models that people can read: train, explain and check interpretable mixture-of-experts reward models."""

from importlib.metadata import version as _version

from facetrm.backbone.encoder import Encoder, Features
from facetrm.backbone.store import FeatureStore, encode
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import FacetrmError
from facetrm.data.objectives import Objective
from facetrm.data.records import Message, Preference, Rating, conversation
from facetrm.data.views import ratings_to_preferences
from facetrm.data.world import World, WorldConfig
from facetrm.explain.ablate import ablate
from facetrm.explain.ask import explain_local, explain_pair, flip_explained
from facetrm.explain.edit import edit
from facetrm.explain.flip import flip_pair
from facetrm.explain.local import explain_score, explain_scores_pair
from facetrm.explain.overall import explain_overall
from facetrm.fit.debias import DebiasConfig, fit_debias
from facetrm.fit.gate.fit import GateConfig, fit_gate
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.hub.auto import register as _register
from facetrm.hub.export import export_published
from facetrm.hub.load import load_model
from facetrm.hub.push import push_to_hub
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.aggregate import GatedSum
from facetrm.model.concat import ConcatMLP
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate
from facetrm.model.mixture import Mixture
from facetrm.model.output import RewardOutput, Score, Scorer
from facetrm.model.reward_model import RewardModel
from facetrm.recipes.run import run_recipe

_register()
__version__ = _version("facetrm")

__all__ = [
    "AdapterExperts",
    "BackboneConfig",
    "ConcatMLP",
    "DebiasConfig",
    "Encoder",
    "FacetrmError",
    "FeatureStore",
    "Features",
    "Gate",
    "GateConfig",
    "GatedSum",
    "LinearExperts",
    "Message",
    "Mixture",
    "Objective",
    "Preference",
    "Rating",
    "RewardModel",
    "RewardOutput",
    "RidgeConfig",
    "Score",
    "Scorer",
    "World",
    "WorldConfig",
    "__version__",
    "ablate",
    "conversation",
    "edit",
    "encode",
    "explain_local",
    "explain_overall",
    "explain_pair",
    "explain_score",
    "explain_scores_pair",
    "export_published",
    "fit_debias",
    "fit_gate",
    "fit_linear_experts",
    "flip_explained",
    "flip_pair",
    "load_encoder",
    "load_model",
    "push_to_hub",
    "ratings_to_preferences",
    "run_recipe",
]
