"""Conditions and templates as data, compiled once."""
