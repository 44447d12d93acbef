"""Floor 1: records, objectives, sources, the synthetic world. No torch."""

from typing import TYPE_CHECKING

from facetrm.core.lazy import lazy

__all__ = [
    "SOURCES",
    "Conversation",
    "Desk",
    "DeskConfig",
    "Message",
    "Objective",
    "Preference",
    "Rating",
    "RatingsPack",
    "Rubric",
    "ScoringRow",
    "World",
    "WorldConfig",
    "conversation",
    "conversations_in_memory",
    "decontaminate",
    "deduplicate",
    "label_matrix",
    "load_source",
    "mix",
    "prompt_key",
    "ratings_to_preferences",
    "read_conversations",
    "read_pack",
    "read_preferences",
    "read_ratings",
    "read_rubric",
    "split_by_prompt",
    "stream_all_rows",
    "stream_conversations",
    "vocabulary",
    "write_records",
]

if TYPE_CHECKING:
    from facetrm.data.desk.desk import Desk, DeskConfig
    from facetrm.data.objectives import Objective, label_matrix
    from facetrm.data.pack import RatingsPack, read_pack
    from facetrm.data.read.conversations import (
        ScoringRow,
        conversations_in_memory,
        read_conversations,
        stream_all_rows,
        stream_conversations,
    )
    from facetrm.data.read.files import read_preferences, read_ratings, write_records
    from facetrm.data.records import Conversation, Message, Preference, Rating, conversation, prompt_key
    from facetrm.data.rubric import Rubric, read_rubric
    from facetrm.data.sources.load import load_source
    from facetrm.data.sources.registry import SOURCES
    from facetrm.data.views import decontaminate, deduplicate, mix, ratings_to_preferences, split_by_prompt
    from facetrm.data.world.words import vocabulary
    from facetrm.data.world.world import World, WorldConfig
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "facetrm.data.objectives": ["Objective", "label_matrix"],
            "facetrm.data.pack": ["RatingsPack", "read_pack"],
            "facetrm.data.read.conversations": [
                "ScoringRow",
                "conversations_in_memory",
                "read_conversations",
                "stream_all_rows",
                "stream_conversations",
            ],
            "facetrm.data.read.files": ["read_preferences", "read_ratings", "write_records"],
            "facetrm.data.records": ["Conversation", "Message", "Preference", "Rating", "conversation", "prompt_key"],
            "facetrm.data.rubric": ["Rubric", "read_rubric"],
            "facetrm.data.sources.load": ["load_source"],
            "facetrm.data.sources.registry": ["SOURCES"],
            "facetrm.data.views": ["decontaminate", "deduplicate", "mix", "ratings_to_preferences", "split_by_prompt"],
            "facetrm.data.desk.desk": ["Desk", "DeskConfig"],
            "facetrm.data.world.words": ["vocabulary"],
            "facetrm.data.world.world": ["World", "WorldConfig"],
        },
    )
