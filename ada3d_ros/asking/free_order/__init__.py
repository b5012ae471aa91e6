"""Questions in free word order, read by the words that they hold; what no other order of the words
would change. `frames.py` has those that are read in the usual order, with names of any words.
"""
