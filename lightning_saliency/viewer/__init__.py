"""The browser viewer of a run's record, and the TensorBoard plugin that serves it."""
