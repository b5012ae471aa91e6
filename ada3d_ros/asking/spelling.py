"""Misspellings: which words are mended, and to what."""

from __future__ import annotations

import functools

from ada3d_ros.asking.frames import frame_words
from ada3d_ros.asking.lexicon import CLOSED, word_set
from ada3d_ros.asking.words import COLORS, GENERIC, NOUNS, plural, singular

# Misspellings that are too far off to be mended by their distance.
MISSPELT = {
    "abt": "about",
    "betw": "between",
    "btwn": "between",
    "btween": "between",
    "dist": "distance",
    "hw": "how",
    "lft": "left",
    "nxt": "next",
    "obj": "object",
    "objs": "objects",
    "r": "are",
    "u": "you",
    "appart": "apart",
    "clr": "color",
    "colr": "color",
    "fra": "far",
    "hwo": "how",
    "nearst": "nearest",
    "nerest": "nearest",
    "tal": "tall",
    "teh": "the",
    "thier": "there",
    "wat": "what",
    "wht": "what",
    "feets": "feet",
    "hte": "the",
    "opne": "open",
    "taht": "that",
    "ur": "your",
    "konw": "know",
    "meny": "many",
    "romm": "room",
    "wether": "whether",
    "wich": "which",
}
# Words that are mended where one letter is wrong, missing, added or swapped; of four letters, where
# one is missing, doubled or swapped. Those of the frames, of colours and of furniture are added.
MENDED = word_set("""
    about apart away behind below beneath beside between biggest centimeters centimetres close
    closer closest color colored colour contain could count describe depth dimensions does excuse
    facing feet from have height highest length locate located look looking many measure meter
    meters metre metres name number object objects please radius right room seen separate separated
    separation side stand standing stands tall tallest tell that there thing things towards under
    underneath voluminous what where which width within would
""")
# Words of four letters that are mended where one letter is missing.
MENDED_OF_THREE = word_set("ball blue desk from have lamp name pink room sofa that what with")
# English words that are one letter away from those, and are meant as they stand.
NOT_MISSPELT = word_set("""
    abode abort abound account all alone among amp assumed assure back bald bales band bar barre
    barred barren bedside bells bill bills black blank block blocks blow blown blue boll bones bowl
    boxed boxer boxers brow browne brows bull bulls byway cafes cages cakes can canes canter capes
    cares carte casey cass castes casts causes caves ceases chai chain chains char chart chase
    chases choir chose clair clear clock clone closed closet closets clothe clothes clover coach
    coaches cold colon colony conch conor cont corner cough county court courts cover crab crane
    cranes crater craters crates crave craze create creates crete crouch crow curate dame damp
    decks deer dens dent derail des described detain dimension disks distanced does dose doubt
    drugs dum each east edge eight ever excise excused fact fade fading faking fan far farm fee
    feel fin fine five flood floor flour folder font form former forms frost frown gary gay god
    greed greek green greene greens greer greet guest hand hat hate hear height hive hole imagined
    imaging kid lad lag lam lamb lambs lamps lange lap laps largely largo leaf left less let lid
    lie lies light lights like lit live locale lock locking log long loo looming loop looping
    loosing looting lot low lumps mail main man mane map marion mat mater may meal mean measured
    men mere meteor metro meyer meyers mount nail new nose number numbers oil old open orange
    oranges paint painter pan pink pins pint plane plate pleased pointed pointy pont pot print
    printed queen rack radios rail react read ready real red reed reich relate relates relaxed
    relayed ride rind roach rod romo roof roofs root rose row rug sand sands sat scene sea seal
    seals seam seams sears seas seat seats sects seed self sell selves set sets setter settle
    settles shell shelve shelved shine shop side sign silvery sink site sits size sliver soda sofas
    soft sow space spare stable stain stair stale stall stan stand star stare starts station stats
    steal stool strand strands supposed sweats tablet tablets tale tales tall taller tan tank tape
    tell ten than thank thee theme then these thin thine think thinks thins this thong those three
    throw tile till tis title toe ton tool top total touch town toy treat trunk turn tying unde
    violent wall walls wash wee weight whale wheat wheel when while whine whit white whites wide
    widths wild winch wind window wine wing wit wood word work world wound write year yellows yells
""")
MIN_MENDED = 4  # letters of a word that is mended


@functools.cache
def _mendable() -> tuple[str, ...]:
    """Words that misspellings are mended to."""
    words = MENDED | frame_words() | COLORS | NOUNS | {plural(noun) for noun in NOUNS}
    return tuple(sorted(word for word in words if len(word) >= MIN_MENDED))


@functools.lru_cache(maxsize=4096)
def mended(word: str) -> str:
    """The word, with a misspelling taken out that leaves no doubt."""
    if word in MISSPELT:
        return MISSPELT[word]
    known = word in CLOSED or word in NOT_MISSPELT or word in GENERIC or not word.isalpha()
    if known or len(word) < MIN_MENDED - 1 or word in _mendable() or singular(word) in _mendable():
        return word
    rights = _mendable() if len(word) >= MIN_MENDED else sorted(MENDED_OF_THREE)
    return next((right for right in rights if _is_typo(word, right)), word)


def _is_typo(word: str, right: str) -> bool:
    """Whether one letter is missing, doubled, or swapped with the next, beyond the first; of a word
    of five letters or more also one that is wrong or added.
    """
    if word[0] != right[0] or abs(len(word) - len(right)) > 1:
        return False
    i = next((k for k, (a, b) in enumerate(zip(word, right, strict=False)) if a != b), None)
    if i is None:  # the last letter is missing or added
        return len(right) > MIN_MENDED or (len(word) > len(right) and word[-1] == word[-2])
    swapped = word[i + 1 : i + 2] + word[i] + word[i + 2 :] == right[i:]
    missing, added = word[i:] == right[i + 1 :], word[i + 1 :] == right[i:]
    wrong = word[i + 1 :] == right[i + 1 :]
    if swapped or missing or (added and word[i] in (word[i - 1], right[i])):
        return True
    return len(right) > MIN_MENDED and (wrong or added)
