"""Side by side with what a user would do instead: what forgetting costs, and what it is worth, in ratios of one run."""
