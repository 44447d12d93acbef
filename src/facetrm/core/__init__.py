"""Floor 0: errors, registry, settings, fingerprints, statistics, progress. Imports no other floor."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "BackboneError",
    "ConfigError",
    "DataError",
    "FacetrmError",
    "FitError",
    "Interval",
    "LabelError",
    "ModelError",
    "Section",
    "SeedInterval",
    "StoreError",
    "apply_sets",
    "interval_over_seeds",
    "parse_config",
    "read_server_key",
    "read_yaml",
    "settings_text",
]

if TYPE_CHECKING:
    from facetrm.core.config import Section, apply_sets, parse_config, read_yaml
    from facetrm.core.describe import settings_text
    from facetrm.core.errors import (
        BackboneError,
        ConfigError,
        DataError,
        FacetrmError,
        FitError,
        LabelError,
        ModelError,
        StoreError,
    )
    from facetrm.core.seed_intervals import SeedInterval, interval_over_seeds
    from facetrm.core.statistics import Interval
    from facetrm.core.web.key import read_server_key
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.core.config": ["Section", "apply_sets", "parse_config", "read_yaml"],
            "facetrm.core.describe": ["settings_text"],
            "facetrm.core.errors": [
                "BackboneError",
                "ConfigError",
                "DataError",
                "FacetrmError",
                "FitError",
                "LabelError",
                "ModelError",
                "StoreError",
            ],
            "facetrm.core.seed_intervals": ["SeedInterval", "interval_over_seeds"],
            "facetrm.core.statistics": ["Interval"],
            "facetrm.core.web.key": ["read_server_key"],
        },
    )
