"""Forward passes: packing without padding, padded batches and mean pooling."""
