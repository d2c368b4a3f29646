"""Records of models in the words of other libraries."""
