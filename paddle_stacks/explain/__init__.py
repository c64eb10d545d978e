"""Why something is there, and what a message means: from the sources and tables themselves."""
