"""Turns of phrase of each kind of question, in free word order; behind those of `phrases.py`."""

from __future__ import annotations

from ada3d_ros.asking.lexicon import rules
from ada3d_ros.asking.words import COLORS, NOUNS, plural

SPOT = "position|place|point|location|coordinates?|spot"
_BIGGEST = "(?:all|any)(?: of)?(?: the)? others?(?: \\w+)?"
COLOR = "|".join(sorted(COLORS))
_PLURALS = "|".join(sorted({"objects", "things", "items", *map(plural, NOUNS)}))
_STRETCHES = "length|width|height|depth|breadth|long|wide|high|tall|deep|broad"

NAMES = "|".join(sorted(NOUNS | set(map(plural, NOUNS)), key=len, reverse=True))

CUES = rules(
    # distances
    (r"\bhow (?:close|near|distant|far)\b(?: (?:away|apart|off))?(?: together)?", " HOW FAR "),
    (
        r"\b(?:smallest|shortest|least|minimum|minimal) (?:distance|separation|gap)\b(?: away)"
        r"?"
        r"|\b(?:the )?(?:less|least) (?:far|distant)(?: away)?\b|\bmost (?:close|near)\b"
        r"|\bfirst if (?:we|you|i) go by distance\b",
        " NEAREST ",
    ),
    (r"\b(?:nearest|closest)(?: (?:one|neighbou?rs?|by|from|object neighbou?r))?\b", " NEAREST "),
    (
        r"\b(?:cent(?:er|re)s?|midpoints?|middles?)(?:[- ]to[- ](?:the )?(?:cent(?:er|re)"
        r"|middle"
        r"|midpoint))?s?\b(?: points?)?(?: of(?= (?:the|both|an?)))?|\bmiddle points?(?: of)?",
        " CENTER ",
    ),
    (
        r"\b(?:(?:a|the) )?(?:(?:measuring )?tape(?: measure)?|ruler|cord|wire|string|rope|cable"
        r"|straight line|line)\b",
        " LINE ",
    ),
    (r"(?<!in the )\b(?:space|room|stretch|interval) between\b(?! which)", " SPACE between "),
    # within
    (
        r"\b(?:is |are |lies? |at |in |does |do )?(?:(?:no|not)(?: at)? (?:more|farther"
        r"|further|greater)"
        r"(?: away)? than|less(?: far)?(?: away)? than|fewer than|closer than|nearer than"
        r"|(?:at )?(?:the )?most|up to|under|max(?:imum|imally)?|within|inside(?: of)?|in"
        r"|until|around"
        r"|round|not exceed(?:ing)?|surrounding)(?: a| the| an)?"
        r"(?: (?:maximum |max )?(?:distance|radius|range|circle|reach) of)?(?: (?:radius"
        r"|circle of))?"
        r"(?: (?:at most|up to|less than|maximum))?(?: about)? (LEN\d+)(?: poss)?"
        r"(?: (?:or (?:less|nearer|closer)|of distance|distance|radius|range|circle|away"
        r"|far))*\b",
        r" WITHIN \1 ",
    ),
    (r"(LEN\d+) (?:or (?:less|nearer|closer)|radius|circle|at most)\b", r" WITHIN \1 "),
    (r"(?<!WITHIN )\b(LEN\d+) (?=around|round)", r" WITHIN \1 "),
    # how many
    (
        rf"\bhow many\b|\bhow much(?= (?:of|pieces|instances|(?:(?:{COLOR}) )"
        rf"?(?:{_PLURALS}))\b)"
        r"(?: (?:of|pieces|instances|different|individual|distinct))*"
        r"|\b(?:number|count|tally|qty|quantity|total(?! (?:size|height|width|length))"
        r"|amount)\b"
        r"(?: (?:number|up|of))*",
        " HOWMANY ",
    ),
    # floor
    (
        r"\bnothing (?:is )?(?:on it|standing|stands)\b|\b(?:is )?nothing(?= on the floor)"
        r"|\b(?:has|is|with) nothing(?: on it)?\b"
        r"|\b(?:free|empty|clear|unoccupied|unused|vacant|open|available|bare|unobstructed"
        r"|uncluttered)\b",
        " FREE ",
    ),
    (r"\b(?:is there|have) (?:any |enough |still |some )*(?:room|space) to put\b", " FREE "),
    (r"\b(?:on |of )?(?:the |any |some )?(?:floor|ground)(?: (?:space|area|room))?\b", " FLOOR "),
    # on, under, between
    (r"\bon(?: the)? top(?: of| from)?\b|\bup on\b|\bupon\b|\batop\b", " on "),
    (r"\b(?:under|underneath)(?: of)?\b|\bbeneath(?: of)?\b|\bbelow\b", " UNDER "),
    (
        r"\b(?:in[- ]between|between)(?: of)?(?: the two(?: of (?:them|those))?)?\b"
        r"|\bamong(?= the .* and )"
        r"|\bin (?:the )?(?:space|gap|way|middle|area)(?: that)?(?: (?:is|lies))? (?:between|of)\b",
        " between ",
    ),
    # sizes
    (
        r"\bl ?x ?w ?x ?h\b|\bbounding[- ]box(?: dimensions)?\b|\bwhat by what\b|\ball round\b"
        rf"|\b(?:{_STRETCHES})(?:(?: (?:by|and|x|or|times|as well as))+ (?:the )?(?:how )?"
        rf"(?:{_STRETCHES})| (?:length|width|height|depth))+\b|\bin (?:all (?:three )?"
        rf"|every |each )(?:direction"
        rf"|dimension)s?\b|\balong each "
        rf"axis\b"
        r"|\bhow much (?:space|room|place) (?=.* takes? up\b)",
        " SIZE ",
    ),
    (r"\bHOW FAR (?:is |are )?(?:above|over|off) FLOOR\b|\bHOW FAR up\b", " HEIGHT "),
    (r"\b(?:above|over|off) FLOOR\b", " "),
    (r"\b(?:from )?(?:one )?end to (?:the |the other )?(?:end|other)\b", " length "),
    (r"\b(?:from )?(?:one )?side to (?:the |the other )?(?:side|other)\b", " width "),
    (r"\b(?:room|space) FLOOR\b", " FREE FLOOR "),
    (
        r"\b(?:put|set|place|park|lay)(?: down)? (?:something|anything|an? \w+)(?: down)"
        r"?(?=.*FLOOR)"
        r"|\bnot occupied\b|\b(?:something|anything) be (?:put|placed|set)(?: down)"
        r"?(?=.*FLOOR)",
        " FREE ",
    ),
    # largest, tallest
    (
        r"\b(?:biggest|bigest|largest|hugest|most (?:big|large|voluminous))\b"
        rf"|\b(?:bigger|larger) than {_BIGGEST}",
        " LARGEST ",
    ),
    (
        rf"\b(?:tallest|highest|most (?:tall|high))\b|\bgreatest height\b"
        rf"|\b(?:taller|higher) than {_BIGGEST}",
        " TALLEST ",
    ),
    # colours, looks
    (
        r"\b(?:colou?red|in colou?r) (?=(?:red|blue|green|yellow|orange|pink|purple|white"
        r"|black|brown|gray|grey)\b)",
        " ",
    ),
    (r"\b(?:colou?r(?:s|ed|ing)?|hue|tint)(?: wise)?\b", " COLOR "),
    (r"\bappearance\b|\b(?:the )?looks of\b", " LIKE "),
    (
        r"\b(?:verbal |short |brief |small |detailed )?describ(?:e|ed|es)\b|\b(?:verbal "
        r"|short |brief |small )?description\b"
        r"|\bcharacteri[sz]e\b|\b(?:tell|say)(?: me| us)?(?: a bit| something| a little)?(?: "
        r"more)? about\b"
        r"|\b(?:some|a few) words about\b|\bbrief me on\b",
        " DESCRIBE ",
    ),
    # where
    (
        rf"\b(?:at |in |on )?(?:what|which) (?:{SPOT}|part|corner)\b|\bto which place\b"
        rf"|\bwhereabouts\b|\b(?:the )?(?:position|location|coordinates|whereabouts) of\b"
        rf"|\bwhere\b|\blocate\b",
        " WHERE ",
    ),
    (r"\b(?:from|at|standing|stand|stands) WHERE (?=the )", " STANDAT "),
    (r"\b(?:(?:it|he|she) )?(?:has |is |poss )?(?:got|gone)(?: to)?$", " "),
    (r"(WHICHSIDE.*) (?:on|in|at)$", r"\1"),
    (r"\btakes? up\b", " "),
    (r"\bsupported\b", " on "),
    (r"\bsupport(?:s|ing)?\b", " SUPPORT "),
    (r"\bwould HERE\b", " ONLY "),
    (r"(?<!talking) about$", " PRESENT "),
)
