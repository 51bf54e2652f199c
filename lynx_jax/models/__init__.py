"""What a model computes: one decoder, assembled from its spec."""
