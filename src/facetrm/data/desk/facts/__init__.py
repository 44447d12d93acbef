"""The desk's own table of undisputed facts, by subject."""

from typing import Final

from facetrm.data.desk.facts.culture import CULTURE
from facetrm.data.desk.facts.kinds import FactKind
from facetrm.data.desk.facts.measures import MEASURES
from facetrm.data.desk.facts.nature import NATURE
from facetrm.data.desk.facts.places import PLACES_AND_MONEY

FACT_KINDS: Final = (*PLACES_AND_MONEY, *NATURE, *CULTURE, *MEASURES)

__all__ = ["FACT_KINDS", "FactKind"]
