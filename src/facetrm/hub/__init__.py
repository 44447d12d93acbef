"""Floor 4: models in and out: native folders, the published layout, other reward models, cards, the Hub."""
