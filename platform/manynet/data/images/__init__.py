"""Image data sets: readers, splits, augmentation."""
