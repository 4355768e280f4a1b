"""Figures from rows; nothing is measured here. One module a chapter, one style for all."""
