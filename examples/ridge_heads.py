"""Stage 1 by itself: one linear head per objective, in closed form, from rows that rate only some of the objectives."""

import torch

from facetrm import Features, RidgeConfig, World, fit_linear_experts, label_matrix, vocabulary

world = World()
ratings = list(world.ratings(600))
labels_NK = label_matrix(ratings, world.objectives)
groups = [rating.prompt_key for rating in ratings]

# A head works with any features. Word counts are the simplest; a backbone also reads the order of the words.
index = {word: d for d, word in enumerate(vocabulary())}


def count_words(text: str) -> torch.Tensor:
    """Return how often each known word occurs in a text, [D]."""
    known = [index[word] for word in text.split() if word in index]
    return torch.bincount(torch.tensor(known, dtype=torch.int64), minlength=len(index)).float()


answers_ND = torch.stack([count_words(rating.messages[-1].content) for rating in ratings])
length_N = answers_ND.sum(-1).long()
features = Features(answers_ND, answers_ND[:, None], length_N, length_N, torch.zeros(len(ratings), dtype=torch.bool))

fit = fit_linear_experts(
    features, labels_NK, objectives=world.objectives, groups=groups, config=RidgeConfig(folds=3, bootstrap=0)
)
print(f"{'objective':<28}{'rows':>6}{'alpha':>9}{'Spearman':>10}")
for report in fit.reports:
    print(f"{report.name:<28}{report.n:>6}{report.alpha:>9g}{report.spearman:>10.2f}")
