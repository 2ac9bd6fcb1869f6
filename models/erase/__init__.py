"""The ways to take an attribute's information out of a network."""
