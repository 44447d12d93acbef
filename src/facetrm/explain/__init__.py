"""Floor 5: explain one answer, one pair or a whole model; find what flips a pair; ablate objectives; edit weights."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "AblationTable",
    "AnswerView",
    "Flip",
    "LocalExplanation",
    "OverallExplanation",
    "PairExplanation",
    "PairView",
    "WholeView",
    "ablate",
    "changes_of",
    "edit",
    "explain_local",
    "explain_overall",
    "explain_pair",
    "explain_score",
    "explain_scores_pair",
    "flip_explained",
    "flip_pair",
    "parse_edit",
    "show",
]

if TYPE_CHECKING:
    from facetrm.explain.ablation import AblationTable, ablate
    from facetrm.explain.ask import explain_local, explain_pair, flip_explained
    from facetrm.explain.edited import changes_of
    from facetrm.explain.edits import edit, parse_edit
    from facetrm.explain.flip import Flip, flip_pair
    from facetrm.explain.local import LocalExplanation, PairExplanation, explain_score, explain_scores_pair
    from facetrm.explain.overall import OverallExplanation, explain_overall
    from facetrm.explain.table import WholeView
    from facetrm.explain.terminal import AnswerView, PairView, show
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.explain.ablation": ["AblationTable", "ablate"],
            "facetrm.explain.ask": ["explain_local", "explain_pair", "flip_explained"],
            "facetrm.explain.edited": ["changes_of"],
            "facetrm.explain.edits": ["edit", "parse_edit"],
            "facetrm.explain.flip": ["Flip", "flip_pair"],
            "facetrm.explain.local": ["LocalExplanation", "PairExplanation", "explain_score", "explain_scores_pair"],
            "facetrm.explain.overall": ["OverallExplanation", "explain_overall"],
            "facetrm.explain.table": ["WholeView"],
            "facetrm.explain.terminal": ["AnswerView", "PairView", "show"],
        },
    )
