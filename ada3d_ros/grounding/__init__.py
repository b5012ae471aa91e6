"""Boxes for a phrase: from the grounding head, from the answer text, or from attention; refined and
checked by depth.
"""
