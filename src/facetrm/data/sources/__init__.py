"""Public data sets by name: ``load_source("helpsteer")``; one file each, registered in ``SOURCES``."""

from facetrm.data.sources import (
    argilla_capybara,
    argilla_math,
    argilla_openorca,
    armorm,
    beavertails,
    codeultrafeedback,
    helpsteer,
    hh_rlhf,
    mtmc_rlhf,
    pku_saferlhf,
    prm800k,
    prometheus,
    shp,
    ultrafeedback,
)
from facetrm.data.sources.armorm import ARMORM_OBJECTIVES
from facetrm.data.sources.load import load_source
from facetrm.data.sources.mtmc_rlhf import MTMC_TASKS
from facetrm.data.sources.registry import SOURCES, Dropped, Source, source

__all__ = [
    "ARMORM_OBJECTIVES",
    "MTMC_TASKS",
    "SOURCES",
    "Dropped",
    "Source",
    "argilla_capybara",
    "argilla_math",
    "argilla_openorca",
    "armorm",
    "beavertails",
    "codeultrafeedback",
    "helpsteer",
    "hh_rlhf",
    "load_source",
    "mtmc_rlhf",
    "pku_saferlhf",
    "prm800k",
    "prometheus",
    "shp",
    "source",
    "ultrafeedback",
]
