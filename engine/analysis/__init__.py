"""What is computed from many images: class maps, contrasts of models, curves, retrieval."""
