"""Running the project's own tests: suites, tiers, progress."""
