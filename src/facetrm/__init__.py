"""Reward models that people can read: train, explain and check interpretable mixture-of-experts reward models."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy
from facetrm.hub.registration import register_when_loaded

__all__ = [
    "AdapterExperts",
    "BackboneConfig",
    "ConcatConfig",
    "ConcatMLP",
    "DebiasConfig",
    "Desk",
    "DeskConfig",
    "Encoder",
    "ExpertConfig",
    "FacetrmError",
    "FeatureStore",
    "Features",
    "Gate",
    "GateConfig",
    "GateShape",
    "GatedSum",
    "LinearExperts",
    "LoraSettings",
    "Message",
    "Mixture",
    "Objective",
    "Preference",
    "Rating",
    "RewardModel",
    "RewardOutput",
    "RidgeConfig",
    "RouterConfig",
    "Score",
    "Scorer",
    "TinyShape",
    "World",
    "WorldConfig",
    "__version__",
    "ablate",
    "conversation",
    "conversations_in_memory",
    "edit",
    "encode",
    "explain_local",
    "explain_overall",
    "explain_pair",
    "explain_score",
    "explain_scores_pair",
    "export_published",
    "export_self_contained",
    "fit_adapter",
    "fit_armorm",
    "fit_concat_mlp",
    "fit_debias",
    "fit_dmoerm",
    "fit_gate",
    "fit_linear_experts",
    "fit_router",
    "flip_explained",
    "flip_pair",
    "label_matrix",
    "load_encoder",
    "load_model",
    "push_to_hub",
    "ratings_to_preferences",
    "read_conversations",
    "read_preferences",
    "read_ratings",
    "run_recipe",
    "tiny_decoder",
    "toy_model",
    "vocabulary",
    "write_records",
]

if TYPE_CHECKING:
    from facetrm.backbone.config import BackboneConfig
    from facetrm.backbone.encoder import Encoder, Features
    from facetrm.backbone.lora.adapters import LoraSettings
    from facetrm.backbone.store import FeatureStore, encode
    from facetrm.backbone.tiny import TinyShape, tiny_decoder
    from facetrm.backbone.transformer import load_encoder
    from facetrm.core.errors import FacetrmError
    from facetrm.core.version import __version__
    from facetrm.data.desk.desk import Desk, DeskConfig
    from facetrm.data.objectives import Objective, label_matrix
    from facetrm.data.read.conversations import conversations_in_memory, read_conversations
    from facetrm.data.read.files import read_preferences, read_ratings, write_records
    from facetrm.data.records import Message, Preference, Rating, conversation
    from facetrm.data.views import ratings_to_preferences
    from facetrm.data.world.words import vocabulary
    from facetrm.data.world.world import World, WorldConfig
    from facetrm.explain.ablation import ablate
    from facetrm.explain.ask import explain_local, explain_pair, flip_explained
    from facetrm.explain.edits import edit
    from facetrm.explain.flip import flip_pair
    from facetrm.explain.local import explain_score, explain_scores_pair
    from facetrm.explain.overall import explain_overall
    from facetrm.fit.debias import DebiasConfig, fit_debias
    from facetrm.fit.experts.adapters import fit_adapter
    from facetrm.fit.experts.concat import fit_concat_mlp
    from facetrm.fit.experts.concat_start import ConcatConfig
    from facetrm.fit.experts.config import ExpertConfig
    from facetrm.fit.gate.config import GateConfig
    from facetrm.fit.gate.fit import fit_gate
    from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
    from facetrm.fit.router.config import RouterConfig
    from facetrm.fit.router.fit import fit_router
    from facetrm.hub.export import export_published, export_self_contained
    from facetrm.hub.load import load_model
    from facetrm.hub.push import push_to_hub
    from facetrm.model.adapter_experts import AdapterExperts
    from facetrm.model.aggregate import GatedSum
    from facetrm.model.concat import ConcatMLP
    from facetrm.model.experts import LinearExperts
    from facetrm.model.gate import Gate, GateShape
    from facetrm.model.mixture import Mixture
    from facetrm.model.output import RewardOutput, Score, Scorer
    from facetrm.model.reward_model import RewardModel
    from facetrm.recipes.in_memory import fit_armorm, fit_dmoerm
    from facetrm.recipes.run import run_recipe
    from facetrm.recipes.toy import toy_model
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.backbone.config": ["BackboneConfig"],
            "facetrm.backbone.encoder": ["Encoder", "Features"],
            "facetrm.backbone.lora.adapters": ["LoraSettings"],
            "facetrm.backbone.store": ["FeatureStore", "encode"],
            "facetrm.backbone.tiny": ["TinyShape", "tiny_decoder"],
            "facetrm.backbone.transformer": ["load_encoder"],
            "facetrm.core.errors": ["FacetrmError"],
            "facetrm.core.version": ["__version__"],
            "facetrm.data.objectives": ["Objective", "label_matrix"],
            "facetrm.data.read.conversations": ["conversations_in_memory", "read_conversations"],
            "facetrm.data.read.files": ["read_preferences", "read_ratings", "write_records"],
            "facetrm.data.records": ["Message", "Preference", "Rating", "conversation"],
            "facetrm.data.views": ["ratings_to_preferences"],
            "facetrm.data.desk.desk": ["Desk", "DeskConfig"],
            "facetrm.data.world.words": ["vocabulary"],
            "facetrm.data.world.world": ["World", "WorldConfig"],
            "facetrm.explain.ablation": ["ablate"],
            "facetrm.explain.ask": ["explain_local", "explain_pair", "flip_explained"],
            "facetrm.explain.edits": ["edit"],
            "facetrm.explain.flip": ["flip_pair"],
            "facetrm.explain.local": ["explain_score", "explain_scores_pair"],
            "facetrm.explain.overall": ["explain_overall"],
            "facetrm.fit.debias": ["DebiasConfig", "fit_debias"],
            "facetrm.fit.experts.adapters": ["fit_adapter"],
            "facetrm.fit.experts.concat": ["fit_concat_mlp"],
            "facetrm.fit.experts.concat_start": ["ConcatConfig"],
            "facetrm.fit.experts.config": ["ExpertConfig"],
            "facetrm.fit.gate.config": ["GateConfig"],
            "facetrm.fit.gate.fit": ["fit_gate"],
            "facetrm.fit.heads.ridge": ["RidgeConfig", "fit_linear_experts"],
            "facetrm.fit.router.config": ["RouterConfig"],
            "facetrm.fit.router.fit": ["fit_router"],
            "facetrm.hub.export": ["export_published", "export_self_contained"],
            "facetrm.hub.load": ["load_model"],
            "facetrm.hub.push": ["push_to_hub"],
            "facetrm.model.adapter_experts": ["AdapterExperts"],
            "facetrm.model.aggregate": ["GatedSum"],
            "facetrm.model.concat": ["ConcatMLP"],
            "facetrm.model.experts": ["LinearExperts"],
            "facetrm.model.gate": ["Gate", "GateShape"],
            "facetrm.model.mixture": ["Mixture"],
            "facetrm.model.output": ["RewardOutput", "Score", "Scorer"],
            "facetrm.model.reward_model": ["RewardModel"],
            "facetrm.recipes.in_memory": ["fit_armorm", "fit_dmoerm"],
            "facetrm.recipes.run": ["run_recipe"],
            "facetrm.recipes.toy": ["toy_model"],
        },
        parts=[
            "backbone",
            "baselines",
            "cli",
            "core",
            "data",
            "doctor",
            "evaluate",
            "explain",
            "fit",
            "hub",
            "label",
            "model",
            "policy",
            "recipes",
            "report",
        ],
    )

register_when_loaded()
