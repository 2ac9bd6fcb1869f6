"""The mathematics: networks, their linear parts, and how samples are forgotten. No input or output, no clock, no settings."""
