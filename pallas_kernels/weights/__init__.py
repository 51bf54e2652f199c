"""Array types that hold weights: bfloat16 as its bits, and few bits with scales, in forms."""
