"""Artefacts of a run, made into something to look at; imports no torch."""
