"""Parts of the ``export`` job: a model as a static graph."""
