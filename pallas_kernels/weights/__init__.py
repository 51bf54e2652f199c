"""Array types that hold weights: bfloat16 as its bits, and int8 with a scale per output."""
