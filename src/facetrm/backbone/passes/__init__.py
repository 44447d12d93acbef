"""Forward passes: packs without padding, batches, pooling."""
