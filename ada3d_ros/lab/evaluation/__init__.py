"""How right answers are: metrics, generated questions, agreement with the unpruned model."""
