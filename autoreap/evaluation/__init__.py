"""Score a model: answers by drafted decoding, judged by tasks, and what two answers differ in."""
