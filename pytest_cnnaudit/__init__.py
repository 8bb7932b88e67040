"""Audits as pytest tests, fixtures and assertions."""
