"""Which class each word of a question in free order is of.

A class is a cue of a kind (FAR, NEAREST, SIDEleft), or says what a thing beside it is to the
question (STANDAT, FACE). Plain words change no meaning. A word that is in none of them leaves a
question unread.
"""

from __future__ import annotations

import functools
import re

from ada3d_ros.asking.lexicon import word_set

WORDS: dict[str, frozenset[str]] = {
    "HOW": word_set("how"),
    "WHAT": word_set("what which"),
    "AUX": word_set("is are do does has have can could would got"),
    "IF": word_set("if whether verify confirm check"),
    "THERE": word_set("there here we you i one"),
    "SEE": word_set(
        "see sees seen find finds spot notice detect detected found spotted visible noticed "
        "discovered mapped recorded logged registered scanned identified"
    ),
    "ANY": word_set("any anything something"),
    "GENERIC": word_set(
        "thing things object objects item items piece stuff whatever anything something bits "
        "furniture"
    ),
    "FAR": word_set(
        "far distance distances gap separation separated separates separating separate spacing "
        "clearance apart distant range dist interval spaced removed"
    ),
    "FARNOUN": word_set(
        "distance gap separation spacing clearance range apart separated dist interval spaced"
    ),
    "AWAY": word_set(
        "away off between until till up across over straight together cover travel go going "
        "walk run ran went direct lies taking their starting keeps been put come talking"
    ),
    "BIG": word_set("big large bulky"),
    "MUCH": word_set("much"),
    "SIZE": word_set(
        "size footprint dimension dimensions measurement measurements extent extents sizing "
        "proportions dims"
    ),
    "SIZENOUN": word_set("width breadth wideness depth length"),
    "MEASURE": word_set("measure measures measuring measured"),
    "WIDTH": word_set("wide width breadth broad wideness deep depth"),
    "LENGTH": word_set("long length lengthwise"),
    "TALL": word_set("tall high"),
    "HEIGHT": word_set("height tallness level"),
    "TOTAL": word_set("full overall total exact precise approximate rough very wise many outer"),
    "REACH": word_set("reach reaches rise rises end ends stick sticks extend extends"),
    "COME": word_set("run come comes take takes"),
    "RISE": word_set(
        "rise rises reach reaches up end ends come comes go goes stretch over take takes"
    ),
    "OBS": word_set(
        "person someone somebody anyone anybody observer viewer agent worker visitor guest man "
        "woman child"
    ),
    "WHO": word_set("who whose"),
    "IMAGINE": word_set(
        "given whilst when while once imagine picture pretend assume assuming were must will go "
        "goes after say said taking relative down very turn face way sat over"
    ),
    "ALL": word_set("all everything every altogether among amongst together"),
    "PRESENT": word_set("present exist exists around available"),
    "COMPARE": word_set("compared others going first respect starting would come across"),
    "LIST": word_set(
        "list enumerate inventory rundown everything contains comprises complete whatever whichever"
    ),
    "OCCUPY": word_set("occupy occupies occupied occupying fill fills lies draw walk go"),
    "BELONG": word_set("belong classify call assume painted paint either recorded said"),
    "ON": word_set("on"),
    "BETWEEN": word_set("between"),
    "SPOT": word_set("spot place area space room patch"),
    "ROOM": word_set(
        "room space spot bit area patch place left remain remains stay stays remaining down "
        "still enough part stretch unoccupied put"
    ),
}
# Words that change no meaning.
PLAIN = word_set("""
    a an the this that these those my your our its his her their such i you we they one ones he
    she it me us him them there here HERE YN VIEW poss about dear sorry express output print
    quote supply grateful thankful happy keen eager ta fact still anyway alright cheers mate
    buddy sir madam folks basically honestly presently perched housed stationed resides reside
    seated propped leans leaning please pls plz kindly thanks hey hi hello ok okay um uh oh hmm
    so well now just then again robot exactly precisely roughly approximately approx currently
    actually really quick quickly simply be been being am having got gives give gave tell say
    show let know like wonder ask interested report state determine require work out name
    identify indicate provide specify return read call inform calculate compute estimate
    quantify establish and or but as of to from for by with at in beside near next around round
    alongside adjacent close proximity sort kind type stand stands standing stood lie lies lying
    lay laid sit sits sitting sat rest rests resting placed put puts located situated positioned
    set kept hiding hidden remains remaining happens happen moment wish glad love possible able
    idea think thinking suppose mean possibly perhaps maybe reckon painted query excuse explain
    centred stacked stored value figure known counted appears appear carrying keep centered
    alternatively instances pieces fall falls determination toward towards answer question data
    info information hear
""")

# Words that a slip of the fingers is mended to, beside those above; and words that are none.
MENDED = word_set("""
    appearance behind below beneath biggest bottom closest coordinates corner description
    different direction empty floor front ground largest location middle nearest nothing number
    pieces quantity shortest smallest surrounding tallest taller underneath unoccupied vertical
    within yourself enough centre center centres centers middles midpoint midpoints staring
    straight highest measuring under around toward farther further support surface inches metres
    meters centimetres centimeters millimetres millimeters between where facing
""")
NO_SLIPS = word_set("""
    hold carry other each another string rope tape ruler cable cord barre staring gazed blow
    breath carte case cass char chars cold compare compete comprise coordinate cove dept drum
    ether ever exit exits fins fist fond font fund goin gong hell instance inventor keep laps
    ling meter metre noting observe pace paced pain pant path pint preset proportion rage rally
    rang recon remain root sand sands seas seat self sets stan stat tale tales tanks thank thee
    ther thin three
""")


@functools.cache
def slips_are_mended_to() -> frozenset[str]:
    """Words of five letters and more that are of a class, or lead to one."""
    return frozenset(w for w in MENDED.union(PLAIN, *WORDS.values()) if len(w) >= 5)


@functools.lru_cache(maxsize=4096)
def classes_of(word: str) -> frozenset[str]:
    """All classes of a word of a rewritten question; empty where it is of none."""
    found = {name for name, words in WORDS.items() if word in words}
    if re.fullmatch(r"(?:LEN|NUM)\d+", word):
        found.add(re.sub(r"\d", "", word))
    elif re.fullmatch(r"SIDE\w+", word) or (word.isupper() and word not in ("T", "ONLY")):
        found.add(word)
    if word in PLAIN:
        found.add("")
    return frozenset(found)
