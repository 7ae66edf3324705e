"""Healing: what remains of a decoder is fitted again, to put on the stream what the unpruned model put there."""
