"""World model, critics and actors in torch: pretraining, evaluation and export of model bundles."""
