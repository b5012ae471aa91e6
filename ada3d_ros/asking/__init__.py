"""Which kind a question is, what it names, and the objects kept with the scene."""
