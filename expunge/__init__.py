"""Expunge as seen from outside: talk to the service, and check what it hands over without it."""
