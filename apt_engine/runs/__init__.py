"""Runs on disk: their folders, their events, and what the events amount to. Imports no torch."""
