"""Many ways to say one question: free wordings, synonyms, plurals, politeness and typos.

Templates take the question's `names` by number: {0} bare, {0!a} with "a" or "an", {0!p} its plural.
"""

from __future__ import annotations

import dataclasses
import random
import re

from ada3d_ros.asking.words import COLOR_SYNONYMS, SYNONYMS, plural
from ada3d_ros.lab.world.room_question import RoomQuestion, an

PLAIN_SHARE = 0.35  # of the questions keep their plain wording
SYNONYM_SHARE, TYPO_SHARE, POLITE_SHARE, LOWER_SHARE, NO_MARK_SHARE = 0.2, 0.06, 0.12, 0.12, 0.08

WORDINGS: dict[str, tuple[str, ...]] = {
    "existence": (
        "Is there {0!a} here?",
        "Can you see {0!a}?",
        "Is {0!a} in the room?",
        "Does the room have {0!a}?",
        "Are there any {0!p}?",
        "Are there {0!p} in the room?",
        "Have you seen {0!a}?",
        "Do you see any {0!p}?",
        "Is {0!a} present?",
        "Can {0!a} be found here?",
        "Does this room contain {0!a}?",
        "Is there any {0} in here?",
        "Did you notice {0!a}?",
    ),
    "color": (
        "Which color is the {0}?",
        "What colour is the {0}?",
        "What is the colour of the {0}?",
        "Tell me the color of the {0}.",
        "What color does the {0} have?",
        "What color is that {0}?",
        "The {0} is what color?",
        "Name the color of the {0}.",
        "In which color is the {0}?",
        "What is the {0}'s color?",
        "How is the {0} colored?",
        "Say the color of the {0}.",
        "Which colour does the {0} have?",
    ),
    "category": (
        "What is {0} here?",
        "Which object is {0}?",
        "What thing is {0}?",
        "What object is {0}?",
        "Name the {0} object.",
        "What is the {0} thing?",
        "Tell me what the {0} object is.",
        "Which piece of furniture is {0}?",
        "The {0} object is what?",
        "What kind of thing is {0}?",
        "What do you see that is {0}?",
        "What type of object is {0}?",
        "Identify the {0} object.",
    ),
    "category_at": (
        "What is located at {0}?",
        "What stands at {0}?",
        "Which object is at {0}?",
        "What do you see at {0}?",
        "Name the object at {0}.",
        "What kind of object is at {0}?",
        "What can be found at {0}?",
        "Tell me what is at {0}.",
        "Identify the object at {0}.",
        "There is something at {0}. What is it?",
        "What thing is at {0}?",
        "What is there at {0}?",
    ),
    "count": (
        "How many {0!p} do you see?",
        "How many {0!p} can you see?",
        "Count the {0!p}.",
        "What is the number of {0!p}?",
        "How many {0!p} does the room have?",
        "How many {0!p} are here?",
        "Tell me how many {0!p} there are.",
        "What number of {0!p} is in the room?",
        "How many {0!p} have you seen?",
        "How many {0!p} does the room contain?",
        "Please count all {0!p}.",
        "How many {0!p} in total?",
        "Number of {0!p}?",
    ),
    "nearest": (
        "What is closest to the {0}?",
        "Which object is nearest to the {0}?",
        "What stands nearest to the {0}?",
        "What is next to the {0}?",
        "Which thing is closest to the {0}?",
        "What object is nearest the {0}?",
        "Name the object closest to the {0}.",
        "What is right by the {0}?",
        "Which object is the nearest to the {0}?",
        "The {0} is closest to what?",
        "What is the nearest object to the {0}?",
        "What is the closest thing to the {0}?",
        "Tell me what is nearest to the {0}.",
    ),
    "relation": (
        "I stand at the {0} and face the {1}. Where is the {2}?",
        "Standing at the {0} and facing the {1}, where is the {2}?",
        "I am at the {0} and look at the {1}. Is the {2} left, right or behind?",
        "If I stand at the {0} facing the {1}, is the {2} on my left, on my right or behind me?",
        "I am standing by the {0} facing the {1}. Where is the {2}?",
        "From the {0}, looking at the {1}, on which side is the {2}?",
        "Facing the {1} from the {0}, where is the {2}?",
        "I am next to the {0} and facing the {1}. On which side is the {2}?",
        "At the {0}, looking towards the {1}: is the {2} left, right or behind?",
        "When I stand at the {0} and look at the {1}, where is the {2}?",
        "Imagine standing at the {0} and facing the {1}. Where is the {2}?",
        "You stand at the {0} and face the {1}. Is the {2} to your left, right or behind you?",
        "With the {0} at my back and facing the {1}, on which side is the {2}?",
    ),
    "side": (
        "I stand at the {0} and face the {1}. Is the {2} {3}?",
        "Standing at the {0} and facing the {1}, is the {2} {3}?",
        "If I am at the {0} and look at the {1}, is the {2} {3}?",
        "I am at the {0} facing the {1}. Do I have the {2} {3}?",
        "Facing the {1} from the {0}, is the {2} {3}?",
        "When I stand at the {0} and look at the {1}, is the {2} {3}?",
        "From the {0}, looking at the {1}, is the {2} {3}?",
        "I am next to the {0} and facing the {1}. Is the {2} {3}?",
        "At the {0}, looking towards the {1}: is the {2} {3}?",
        "Imagine standing at the {0} and facing the {1}. Is the {2} {3}?",
        "I am standing by the {0} facing the {1}. Is the {2} {3}?",
        "Is the {2} {3} when I stand at the {0} and face the {1}?",
    ),
    "largest": (
        "Which color is the largest object?",
        "What colour is the biggest object?",
        "What color does the largest object have?",
        "What is the color of the largest thing?",
        "What is the color of the biggest object?",
        "The largest object has what color?",
        "Tell me the color of the largest object.",
        "What color is the biggest thing?",
        "What color is the biggest object in the room?",
        "Which colour is the largest thing here?",
        "What color is the most voluminous object?",
        "Name the color of the biggest thing.",
    ),
    "tallest": (
        "Which object is the tallest?",
        "What is the highest object?",
        "What is the tallest thing?",
        "Which thing is tallest?",
        "Name the tallest object.",
        "What object is the tallest in the room?",
        "Which is the tallest object?",
        "What is the tallest object here?",
        "Tell me what the tallest object is.",
        "Which object reaches highest?",
        "What stands tallest?",
        "The tallest object is what?",
    ),
    "multihop": (
        "What color is the object closest to the {0}?",
        "What color is the thing nearest to the {0}?",
        "Which color is the object next to the {0}?",
        "What is the color of the object nearest to the {0}?",
        "What is the color of what is closest to the {0}?",
        "What colour is the object nearest to the {0}?",
        "Tell me the color of the object nearest to the {0}.",
        "The object nearest to the {0} is what color?",
        "What color has the object closest to the {0}?",
        "What color is whatever is nearest to the {0}?",
        "What color is the nearest object to the {0}?",
        "Name the color of the thing closest to the {0}.",
    ),
    "caption": (
        "The related object is located at {0}. Describe it.",
        "Describe the object at {0}.",
        "Describe what is at {0}.",
        "The object is at {0}. Describe the object in detail.",
        "Give a description of the object at {0}.",
        "Caption the object at {0}.",
        "Please describe the object located at {0}.",
        "What does the object at {0} look like?",
        "Describe the thing at {0} in detail.",
        "Tell me about the object at {0}.",
        "How does the object at {0} look?",
        "Describe in detail the object located at {0}.",
    ),
    "within": (
        "How many {0!p} stand within {1} m of the {2}?",
        "How many {0!p} are within {1} meters of the {2}?",
        "How many {0!p} are no more than {1} m from the {2}?",
        "Count the {0!p} within {1} m of the {2}.",
        "How many {0!p} are closer than {1} m to the {2}?",
        "Within {1} m of the {2}, how many {0!p} are there?",
        "How many {0!p} are less than {1} m away from the {2}?",
        "How many {0!p} lie in a radius of {1} m around the {2}?",
        "What is the number of {0!p} within {1} m of the {2}?",
        "How many {0!p} do you see within {1} metres of the {2}?",
        "How many {0!p} are at most {1} m from the {2}?",
        "How many {0!p} are around the {2} within {1} m?",
    ),
    "on": (
        "What stands on the {0}?",
        "What is on top of the {0}?",
        "Which object is on the {0}?",
        "What lies on the {0}?",
        "What object stands on the {0}?",
        "What do you see on the {0}?",
        "Is there anything on the {0}, and what?",
        "What can be found on the {0}?",
        "Name what is on the {0}.",
        "Tell me what is on the {0}.",
        "What has been put on the {0}?",
        "What thing is on the {0}?",
    ),
    "on_yes": (
        "Does the {0} stand on the {1}?",
        "Is the {0} on top of the {1}?",
        "Does the {0} lie on the {1}?",
        "Do you see the {0} on the {1}?",
        "Is it true that the {0} is on the {1}?",
        "Is the {0} standing on the {1}?",
        "Can the {0} be found on the {1}?",
        "Is the {0} placed on the {1}?",
        "Is the {1} under the {0}?",
        "Was the {0} put on the {1}?",
        "The {0} is on the {1}, right?",
        "Does the {1} carry the {0}?",
    ),
    "under": (
        "What does the {0} stand on?",
        "What is beneath the {0}?",
        "What is below the {0}?",
        "On what does the {0} stand?",
        "What is underneath the {0}?",
        "The {0} stands on what?",
        "What carries the {0}?",
        "What supports the {0}?",
        "What is the {0} standing on?",
        "Tell me what is under the {0}.",
        "What lies under the {0}?",
        "What is the {0} on?",
    ),
    "between": (
        "What stands between the {0} and the {1}?",
        "Which object is between the {0} and the {1}?",
        "What is there between the {0} and the {1}?",
        "Between the {0} and the {1}, what do you see?",
        "What object is between the {0} and the {1}?",
        "What lies between the {0} and the {1}?",
        "Name what is between the {0} and the {1}.",
        "What is in between the {0} and the {1}?",
        "Is anything between the {0} and the {1}, and what?",
        "Tell me what is between the {0} and the {1}.",
        "What can be found between the {0} and the {1}?",
        "Which thing stands between the {0} and the {1}?",
    ),
    "grounding": (
        "the {0}",
        "{0!a}",
        "{0}",
        "that {0}",
        "the {0} in the room",
        "a {0} here",
        "the {0} over there",
        "some {0}",
        "this {0}",
        "the {0}, please",
        "my {0}",
        "one {0}",
    ),
}
WORDINGS["absent"] = WORDINGS["grounding"]
POLITE = (
    "Please tell me: ",
    "Could you tell me: ",
    "Hey robot, ",
    "Robot, ",
    "Excuse me, ",
    "Now, ",
)
_FIELD = re.compile(r"\{(\d)(!.)?\}")


def reword(question: RoomQuestion, draw: random.Random) -> RoomQuestion:
    """The same question in other words; its answer, places and evidence stay."""
    if draw.random() < PLAIN_SHARE and not question.phrase:
        text = question.text
    else:
        names = [_other_name(name, draw) for name in question.names]
        template = draw.choice(WORDINGS[question.form or question.kind])
        text = _FIELD.sub(lambda m: _filled(names[int(m[1])], m[2]), template)

    # How people type.
    if question.phrase:
        text = _with_typo(text, draw) if draw.random() < TYPO_SHARE else text
        return dataclasses.replace(question, text=text, phrase=text)
    if draw.random() < POLITE_SHARE:
        text = draw.choice(POLITE) + text[0].lower() + text[1:]
    if draw.random() < LOWER_SHARE:
        text = text.lower()
    if draw.random() < NO_MARK_SHARE:
        text = text.rstrip("?.")
    if draw.random() < TYPO_SHARE:
        text = _with_typo(text, draw)
    return dataclasses.replace(question, text=text)


def _filled(name: str, form: str | None) -> str:
    if form == "!a":
        return an(name)
    return plural(name) if form == "!p" else name


def _other_name(name: str, draw: random.Random) -> str:
    """The name with a synonym for its noun or its colour now and then."""
    *before, noun = name.split(" ")
    if noun in SYNONYMS and draw.random() < SYNONYM_SHARE:
        noun = draw.choice(SYNONYMS[noun])
    elif noun == "object" and draw.random() < SYNONYM_SHARE:
        noun = "thing"
    before = [
        draw.choice(COLOR_SYNONYMS[word])
        if word in COLOR_SYNONYMS and draw.random() < SYNONYM_SHARE
        else word
        for word in before
    ]
    return " ".join([*before, noun])


def _with_typo(text: str, draw: random.Random) -> str:
    """One letter of one long word missing, doubled, or changed with its neighbour; no number."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    at = draw.choice(long)
    word, i = words[at], draw.randrange(1, len(words[at]) - 1)
    words[at] = draw.choice(
        (
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        )
    )
    return " ".join(words)
