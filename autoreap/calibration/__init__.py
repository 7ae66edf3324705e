"""Measuring saliency, and summarising it."""
