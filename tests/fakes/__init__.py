"""Fakes that keep the contracts; a test drives them from outside."""
