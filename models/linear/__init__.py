"""The linear part of a model: integer features of a frozen core, exact sums over them, and the one solve."""
