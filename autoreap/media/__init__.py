"""What is heard and seen: recordings, images, videos, and the conditions they are played under."""
