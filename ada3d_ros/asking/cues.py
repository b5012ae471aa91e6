"""One word for each thing that frames of the grammar look for: sides, and the cues of each kind.

Applied behind the rules of lexicon.py.
"""

from __future__ import annotations

from ada3d_ros.asking.lexicon import rules

_SEE = "see|find|spot|notice|detect|observe|make out|recogni[sz]e|perceive"
_WE = "you|i|we|one|they"
_OF = "(?: (?:of|from|to|around|about))?"
_ME = "me|you|us|robot|the robot"
_MY = "my|your|the|its|our|their|his|her"
_BESIDE = "next to|beside|adjacent to|alongside|close to|near to|near|nearby|by|around|in front of"
_EDGES = "length|width|height|depth|breadth"
_STRETCHES = "long|wide|high|tall|deep|broad"
_STANDING = "standing|lying|sitting|resting|located|placed|positioned|situated|put|kept|stood"

SIDES = rules(
    (
        rf"\b(?:on|to|at|towards?)(?: (?:{_MY}))?(?: own)? (left|right)(?: ?-?hand)?(?: side)?"
        rf"(?: of (?:{_ME}))?\b",
        r"SIDE\1",
    ),
    (r"\b(?:my|your) (left|right)(?: ?-?hand)?(?: side)?\b", r"SIDE\1"),
    (r"\bleft\b(?:[ -]?hand\b)?(?: side\b)?", "SIDEleft"),
    (r"\bright\b(?:[ -]?hand\b)?(?: side\b)?(?! next| beside| by| now)", "SIDEright"),
    (
        rf"\b(?:directly |right )?(?:behind(?: (?:{_ME}))?|(?:at|to|on) (?:{_MY}) (?:back|rear)"
        r"|in back of (?:me|you))(?= or| when| if| while| SIDE| in front| ahead|\s*$)",
        "SIDEbehind",
    ),
    (r"\bbehind (?:me|you)(?= (?:to|on|at|and|from|where|what)\b)", "SIDEbehind"),
    (r"\bin front of(?= or behind| or SIDE| SIDE)", "SIDEfront"),
    (
        rf"\b(?:directly |right )?(?:in front of (?:{_ME})|ahead(?: of (?:me|you))?"
        r"|in front(?! of)|straight ahead)\b",
        "SIDEfront",
    ),
    # what one faces
    (
        r"\b(?:while|and|then|when|with)? ?(?:(?:i|you) (?:am |are )?)?(?:facing|faced?|faces"
        r"|looking|looks?|looked|gaz(?:ing|e[sd]?)|staring|turned|turn|oriented|pointing)"
        r"(?: (?:at|to|towards?|in the direction of|straight at))?"
        r"(?= \w)(?! up| like)(?!.*\blike\b)",
        " FACE",
    ),
)

CUES = rules(
    # what there is to see
    (rf"\b(?:can|could|do|did|will|would) (?:{_WE}) (?:currently )?(?:{_SEE}|have)\b", "see"),
    (r"\bhave (?:you|we|i) (?:seen|got|noticed|spotted|found|detected|counted|observed)\b", "see"),
    (r"\b(?:can be|is|are)(?: to be)? (?:seen|visible|present|found)\b", "see"),
    (r"\b(?:you|i|we) (?:can )?(?:see|find)\b", "see"),
    (r"\b(?:present|visible|available)\b(?! (?:floor|space|area|room))", "see"),
    # free floor
    (r"\bhow much (?:room|space|floor)\b(?!.*\bbetween\b)", "how much FREE"),
    (rf"\b(?:enough |some |any )?(?:room|space)(?: free)?(?= (?:{_BESIDE})\b)", "FREE"),
    (
        r"\b(?:patch|piece|spot|stretch|rectangle|area|amount|size) of (?:the )?"
        r"(?=(?:free|empty|open|clear|bare|unoccupied|unused|vacant|available)\b)",
        "",
    ),
    (r"(?<=FREE) (?:is|are) (?:free|empty|available|left)\b", ""),
    (
        r"\b(?:floor )?(?:free|empty|open|clear|unoccupied|unused|vacant|available|bare)"
        r"(?: (?:floor|space|area|spot|place|region|ground|room|patch|rectangle|piece))+"
        r"(?: (?:of|on) (?:the )?(?:floor|space|ground))?\b",
        "FREE",
    ),
    (r"\b(?:floor|ground) (?:space|area|room)\b", "FREE"),
    (r"\b(?:space|room|area) on the (?:floor|ground)\b", "FREE"),
    (r"\b(?:free |empty |open )?FREE(?: (?:FREE|space|area|room|floor|free|empty))*", "FREE"),
    (r"\b(?:space|room)(?: that)? (?=between\b|separat)", "distance "),
    (r"\bdistance that separat(?:es?|ing)\b", "distance between"),
    # nearest, and beside
    (
        r"\b(?:at|has|have|with) the (?:smallest|shortest|least|minimum|minimal) distance"
        r" (?:to|from)\b",
        "nearest to",
    ),
    (r"\bhow (?:near|close)\b(?! to me)", "howclose"),
    (r"\bhow distant\b", "how far"),
    (r"\b(?:nearest|closest)(?: (?:one|neighbou?r))?(?: (?:by|of|from|too))?\b", "nearest"),
    (
        r"\bmost (?:near|close)(?: (?:to|of|from|by))?\b|\bleast far(?: away)?(?: from)?\b",
        "nearest",
    ),
    (r"\bthe least distance (?:to|from)\b", "nearest"),
    (
        rf"\b(?:directly|right) (?:{_BESIDE})\b|\b(?:neighbou?rs? of|next to|beside|adjacent to"
        r"|alongside|in the (?:(?:immediate|direct|close|near) )?"
        r"(?:vicinity|neighbou?rhood) of|neighbou?ring|nearby|close to|near to"
        r"|near)\b",
        "beside",
    ),
    # on, under, between
    (r"\b(?:supports|carries|holds up|bears(?= (?:the|an?|any)\b))\b", "is under"),
    (r"\bon (?:the )?top of\b|\batop\b|\bupon\b", "on"),
    (r"\b(?:underneath|beneath|below)\b", "under"),
    (r"\bin[- ]between\b|\bin the middle (?:of|between)\b|\bseparat(?:es?|ing)\b", "between"),
    (r"\bsurround(?:s|ing)?\b", "be around"),
    # within a radius
    (r"\b(?:closer|nearer) (?:to )?than (LEN\d+) (?:away )?(?:from|to)\b", r"within \1 of"),
    (r"\b(?:closer|nearer) to (.+) than (LEN\d+)$", r"within \2 of \1"),
    (
        r"\b(?:less|(?:not|no) (?:more|farther|further)|nearer|closer|fewer) than (LEN\d+)"
        r"(?: away)?(?: from| of| to)?\b",
        r"within \1 of",
    ),
    (
        r"\b(?:at most|up to|maximally|under|below|within|max|inside|in) (LEN\d+)"
        rf"(?: (?:distance|radius|range|away|reach|or less))*{_OF}\b",
        r"within \1 of",
    ),
    (
        r"\b(?:in|within|inside)(?: a| the)? (?:radius|distance|range|circle|reach) of (LEN\d+)"
        rf"{_OF}\b",
        r"within \1 of",
    ),
    (
        r"\b(?:in|within|inside)(?: a| the)? (LEN\d+) (?:radius|distance|range|circle)"
        rf"{_OF}\b",
        r"within \1 of",
    ),
    (r"\b(LEN\d+) or less (?:away )?from\b", r"within \1 of"),
    # distance, size, height
    (
        r"\b(?:straight[- ]line|shortest|closest|nearest|minimum|minimal|smallest|exact"
        r"|direct|actual|approximate|rough) distance\b",
        "distance",
    ),
    (r"\b(?:gap|separation|clearance|spacing|distances)\b", "distance"),
    (
        rf"\b(?:the )?(?:{_EDGES})(?:(?: and| or)? (?:the )?(?:{_EDGES}))+\b",
        "size",
    ),
    (rf"\bhow (?:{_STRETCHES})(?:(?: and| or)? (?:how )?(?:{_STRETCHES}))+\b", "how big"),
    (r"\b(?:measurements?|measures|dimensions?|dims|extents?|proportions|sizes)\b", "size"),
    (r"\b(?:diameter|breadth)\b", "width"),
    (r"\b(?:biggest|largest|most voluminous|hugest|greatest)\b", "largest"),
    (r"\b(?:tallest|highest)\b", "tallest"),
    (r"\b(?:total )?(?:numbers?|count|amount|quantity)(?= (?:of|do|are|is))\b", "number"),
    # verbs of standing, which say no more than being
    (rf"\b(?:is|are|am|be|being) (?:currently )?(?:{_STANDING}|to be found)\b", "be"),
    (r"\b(?:appears?|stands?|stood|lies?|sits?|sat|rests?|exists?|imagine being|being)\b", "be"),
    (r"\b(?:standing|lying|sitting|resting|located|placed|positioned|situated)\b", "be"),
    (r"\b(?:is|are|am)\b", "be"),
    (r"\bdoes\b", "do"),
    (r"\bhas\b", "have"),
    (r"\b(?:reaches|reaching)\b", "reach"),
    (r"\b(?:position|location|coordinates?|whereabouts)\b", "position"),
    (r"\b(?:kinds?|types?|sorts?)\b", "kind"),
    (r"\bpoint (?:at|to|out|towards)\b", "point at"),
    (r"\b(?:over|up|down) there\b", "at there"),
)
