"""How saliency is measured, and how it is looked at."""
