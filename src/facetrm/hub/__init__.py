"""Floor 4: load, export and publish reward models, in facetrm's layout and in others, with model cards."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "FacetrmConfig",
    "FacetrmForSequenceClassification",
    "export_published",
    "export_self_contained",
    "load_model",
    "local_folder",
    "pair_of",
    "push_to_hub",
    "shipped_models",
    "write_card",
]

if TYPE_CHECKING:
    from facetrm.hub.auto import FacetrmForSequenceClassification
    from facetrm.hub.auto_door import FacetrmConfig
    from facetrm.hub.card import write_card
    from facetrm.hub.export import export_published, export_self_contained
    from facetrm.hub.load import load_model, local_folder
    from facetrm.hub.push import push_to_hub
    from facetrm.hub.shipped import pair_of, shipped_models
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.hub.auto": ["FacetrmForSequenceClassification"],
            "facetrm.hub.auto_door": ["FacetrmConfig"],
            "facetrm.hub.card": ["write_card"],
            "facetrm.hub.export": ["export_published", "export_self_contained"],
            "facetrm.hub.load": ["load_model", "local_folder"],
            "facetrm.hub.push": ["push_to_hub"],
            "facetrm.hub.shipped": ["pair_of", "shipped_models"],
        },
    )
