"""From a model to its table: sampling every tag, metrics over the samples, plots and the report."""
