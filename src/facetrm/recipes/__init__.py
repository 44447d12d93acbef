"""Floor 6: the recipes. Each recipe is a settings class and a straight-line function that runs it in a folder."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "RECIPES",
    "EvalRequest",
    "Loading",
    "Run",
    "browse_folders",
    "check_unwritten",
    "draft",
    "evaluate_systems",
    "evaluation_text",
    "file_name",
    "located",
    "needed_text",
    "print_scores",
    "read_recipe",
    "report_on",
    "run_recipe",
    "score_rows",
    "shipped_recipes",
    "show_done",
    "show_whole",
    "toy_model",
    "train_own_data",
    "write_draft",
    "write_scores",
]

if TYPE_CHECKING:
    from facetrm.recipes.dmoerm.labels_used import needed_text
    from facetrm.recipes.evaluation.browsed import browse_folders
    from facetrm.recipes.evaluation.exports import file_name
    from facetrm.recipes.evaluation.named import Loading
    from facetrm.recipes.evaluation.reported import report_on
    from facetrm.recipes.evaluation.run import EvalRequest, evaluate_systems
    from facetrm.recipes.evaluation.show import evaluation_text
    from facetrm.recipes.own_data.start import check_unwritten, draft, train_own_data, write_draft
    from facetrm.recipes.run import RECIPES, Run, read_recipe, run_recipe
    from facetrm.recipes.score_file import print_scores, write_scores
    from facetrm.recipes.scoring import located, score_rows
    from facetrm.recipes.shipped import shipped_recipes
    from facetrm.recipes.show import show_done, show_whole
    from facetrm.recipes.toy import toy_model
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.recipes.dmoerm.labels_used": ["needed_text"],
            "facetrm.recipes.evaluation.browsed": ["browse_folders"],
            "facetrm.recipes.evaluation.exports": ["file_name"],
            "facetrm.recipes.evaluation.named": ["Loading"],
            "facetrm.recipes.evaluation.reported": ["report_on"],
            "facetrm.recipes.evaluation.run": ["EvalRequest", "evaluate_systems"],
            "facetrm.recipes.evaluation.show": ["evaluation_text"],
            "facetrm.recipes.own_data.start": ["check_unwritten", "draft", "train_own_data", "write_draft"],
            "facetrm.recipes.run": ["RECIPES", "Run", "read_recipe", "run_recipe"],
            "facetrm.recipes.score_file": ["print_scores", "write_scores"],
            "facetrm.recipes.scoring": ["located", "score_rows"],
            "facetrm.recipes.shipped": ["shipped_recipes"],
            "facetrm.recipes.show": ["show_done", "show_whole"],
            "facetrm.recipes.toy": ["toy_model"],
        },
    )
