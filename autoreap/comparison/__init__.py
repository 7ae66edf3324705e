"""What two models heard, utterance by utterance."""
