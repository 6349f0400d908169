"""What a trained model is for: writing, classifying without labels, retrieval."""
