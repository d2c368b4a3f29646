"""From a float CLIP to packed integers: ranges, folds, rounding, packing."""
