"""The record: what was asked, what was done, and the private bytes it was done on."""
