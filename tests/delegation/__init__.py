"""Actors that act on behalf of others."""
