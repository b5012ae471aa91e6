"""The closed words of the questions that are read: what is said for what, and what may be left out.

The rules are applied in order to a question in small letters without punctuation; of what is left,
words that are in no table here and in no frame are taken to name things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Rule = tuple[re.Pattern[str], str]


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), written) for pattern, written in pairs)


def rewritten(words: str, applied: Sequence[Rule]) -> str:
    """The words after each rule in turn, single spaces between them."""
    for pattern, written in applied:
        words = " ".join(pattern.sub(written, words).split())
    return words


ROOMS = "room|scene|house|view|map|apartment|flat|area|picture|place|environment|home|office|lab"

_UNMEASURED = (
    "distance|gap|separation|extents?|space|room|floor|area|volume|temperature|time|weight|speed"
    "|angle|brightness|noise|humidity|pressure"
)
_DIMENSION = "size|height|width|length|depth|dimensions?|measurements?|measures"

UNIT_WORDS = {
    "mm": "mm|millimet(?:er|re)s?",
    "cm": "cms?|centimet(?:er|re)s?",
    "dm": "decimet(?:er|re)s?",
    "m": "m|met(?:er|re)s?|mtrs?",
    "km": "km|kilomet(?:er|re)s?",
    "ft": "ft|foot|feet",
    "in": "inch|inches",
    "yd": "yds?|yards?",
    "mile": "miles?",
}
_LENGTHS = "|".join(UNIT_WORDS.values())

CONTRACTIONS = rules(
    # as people write to each other
    (r"\bgimme\b", "give me"),
    (r"\b(need|want) know\b", r"\1 to know"),
    (r"(?<=\w) @ (?=\w)", " at "),
    (r"\bn (?=fac(?:e|ing)\b|look)", "and "),
    (r"\bleft ?/ ?right\b", "left or right"),
    (r"\bas (?:you|i) see (?:it|them)\b", ""),
    (r",\s*(?:correct|yes|true)\s*\?*$", ""),
    (
        r"\b(?:(?:give|get|show|tell)(?: me| us)? )?(?:a |an |the |some |more )?"
        r"(?:short |brief |detailed )?"
        r"(?:description of|details (?:about|of|on))\b",
        "describe",
    ),
    # units behind a comma, and those of areas
    (rf"\bhow many (?:square |sq\.? ?)(?:{_LENGTHS}) of\b", "how much"),
    (rf",? (?:in )?(?:square|sq\.?) ({_LENGTHS})\W*$", r" in \1"),
    (rf", ({_LENGTHS})\W*$", r" in \1"),
    (r"\blet'?s (?:say|assume|suppose|imagine|pretend)(?: that)?\b", "suppose"),
    # 's that stands for `is` behind another word than those of the next rule
    (
        r"\b(how \w+|(?:what|which) (?:colou?r|hue|size|height|width|length|object|thing|item|one"
        r"|side))'s\b(?! (?:colou?r|size|height|width|length)\b)",
        r"\1 is",
    ),
    (
        r"'s (?=(?:what|which|how|where)\b|(?:the )?(?:tallest|highest|largest|biggest|nearest"
        r"|closest)\W*$|(?:nearest|closest|next) to\b|(?:on|under|between|within|beside) )",
        " is ",
    ),
    (r"\b(what|where|which|who|how|there|that|it|here|when|why)'?s\b(?!')", r"\1 is"),
    (r"\b(what|where|there|they|you|we)'re\b", r"\1 are"),
    (r"\bb/w\b|\bbtw\b(?=.+ and )", "between"),
    (r"^\W*btw\b", ""),
    # what stands between two names alone: `Distance table - sofa?`
    (
        r"\bdist(?:ance|\.)?:? (?:between |from |of )?(?!to\b)(.+?)(?: [-–—/]+"
        r"| ?(?:-+>|→|<-+>|↔)) ?(.+)$",
        r"distance between \1 and \2",
    ),
    (r"\bdist(?:ance|\.)?:? (\w+)[-–—/](\w+)(?=\W*$)", r"distance between \1 and \2"),
    (
        r"^\W*(?:what is |what's )?(?:the )?(\w+)[-–—/](\w+) dist(?:ance)?\b(?:,? what is it)?",
        r"distance between \1 and \2",
    ),
    (
        r"^\W*(\w[\w ]*?)(?: [-–—]+ | ?(?:-+>|→|<-+>|↔) ?)(\w[\w ]*?):? (?:dist|distance)(?=\W*$)",
        r"distance between \1 and \2",
    ),
    (rf"\b({_DIMENSION}) ((?:in|as) \w+) (of .+?)(?=\W*$)", r"\1 \3 \2"),
    (r"\bw/in\b", "within"),
    (r"\bhow(many|much|far|big|large|tall|high|long|wide)\b", r"how \1"),
    (r"\binfront\b", "in front"),
    (r"\bnextto\b", "next to"),
    (r"\bontop\b", "on top"),
    (r"\bi'?m\b", "i am"),
    (r"\b(i|you|he|she|it|we|they|where|what|who|that)'d\b", r"\1 would"),
    (r"\b(i|you|we|they)'ve\b", r"\1 have"),
    (r"\b(is|are|does|do|did|has|have|would|could|ca)nt\b", r"\1 not"),
    (r"n't\b", " not"),
    (r"'s\b", " poss"),
    (r"(?<=s)'(?=\s)", " poss"),
    (r"\b(is|are) their\b", r"\1 there"),
    (r"\bhow m[any]{2,4}\b", "how many"),
    (r"\b(trash|garbage|rubbish|waste|watering) (cans?)\b(?! (?:you|i|we|be)\b)", r"\1\2"),
)

# Greetings, politeness and fillers: they change no meaning and go.
POLITE = rules(
    (r"\b(?:please|pls|plz|kindly|thanks|thx|thank you(?: very much)?)\b", ""),
    (
        r"^(?:(?:hey|hi|hello|ok|okay|well|so|like|um+|uh+|excuse me|sorry|now|dear)(?: there)?"
        r"(?: robot)?\b\s*)+",
        "",
    ),
    (r"^robot\b", ""),
    (r"^(?:and|but|then)\b|^(?:(?:a|one) )?(?:(?:quick|short|simple) )?question\b", ""),
    (r"\bif (?:possible|you can|you know|you please)\b|^do (?=(?:tell|say|show|give)\b)", ""),
    (
        r"^i (?:would be|am) (?:also )?(?:interested|keen)"
        r" (?:in|to (?:know|learn|hear|see|find out)|about|as to)\b",
        "",
    ),
    (
        r"^\s*(?:caption|tell (?:me|us) (?:more )?about|talk about)\b"
        rf"(?! (?:the )?(?:distance|colou?r|number|{_DIMENSION})\b)",
        "describe",
    ),
    (r"^\s*(?:may|can|could) i (?:ask|know)\b|^\s*i (?:need|want|would like)(?= the\b)", ""),
    (r"\b(?:is|are|do|does) not (?:it|there|they|you|we)$", ""),
    (
        r"^\s*(?:what (?:can|could|do) you (?:tell|say|know)|how (?:can|could|would) you describe"
        r"|(?:do|can|could) you (?:know|tell|say)(?: me| us)? (?:anything|something)"
        r"|(?:tell|say)(?: me| us)? (?:something|anything|(?:all|everything)(?: you know)?"
        r"|what you know))(?: me| us)?(?: about)? (?=the \w+ at PLACE|what|PLACE)",
        "describe ",
    ),
    (
        r"\b(?:directly|immediately)"
        r"(?= (?:on|under|below|beneath|above|between|next|beside|near)\b)",
        "",
    ),
    (r"\b(?:in a few words|briefly|in one (?:sentence|word))\b", ""),
    (r"\b(?:would you (?:say|guess|estimate|reckon)|do you (?:think|reckon|believe))\b", ""),
    (r"\b(?:exactly|precisely|currently|roughly|approximately|approx)\b(?! one\b)", ""),
    (r"\b(?:about|around)(?= how\b)|(?<= )(?:more or less|at a guess|or so|then)$", ""),
    (r"^(how .+) about$", r"\1"),
    (
        r"\b(?:approximate|rough|estimated|exact|precise|overall)"
        rf"(?= (?:distance|position|location|number|place|{_DIMENSION})\b)",
        "",
    ),
    (
        rf"\b(?:total|full|whole|maximum) (?=(?:{_DIMENSION})\b(?! of (?:\w+ )*\w+s$))",
        "",
    ),
    (r"^\s*(?:can|could|do) you see (?=(?:what|how|where|which|whether|if)\b)", ""),
    (r"^(what (?:is|are) .+) (?:called|named)$", r"\1"),
    (r"^(where .+) to be (?:found|seen)$", r"\1"),
    (r"^(how \w+) in (?:size|height|length|width)\b", r"\1"),
    (r"^(where|what|how \w+) is it that\b", r"\1"),
    (r"\b(?:right now|at the moment|in total|altogether|overall|for me|by (?:any )?chance)\b", ""),
    (r"\b(?:just(?! one\b)|also|actually|in your opinion|as far as you can (?:see|tell))\b", ""),
    (
        r"^\s*(?:(?:can|could|would|will) you(?: be so kind as to| be able to)?|would you mind"
        r"|are you able to) (?=(?:tell|say|show|giv|check|count|find out|point|describ|locat|nam"
        r"|list|let|measur|estimat|work|identify|calculat|comput"
        r"|determin|specif|indicat|provid))",
        "",
    ),
    (
        r"^\s*i (?:would|want|need|wish)(?: like| love)?(?: you)? to (?:know|find out|see|learn"
        r"|tell me|say)\b",
        "",
    ),
    (r"^\s*(?:i (?:am|was) (?:wondering|curious)(?: about)?|i wonder|any idea|let me know)\b", ""),
    (r"\b(?:happen|manage) to\b|\b(?:even|really|indeed|truly)\b", ""),
    (r"\b(?:short|brief|quick|detailed) (?=description\b)", ""),
    (
        r"^\s*i (?:would|want|need|wish)(?: like| love)?(?: you)? to (?=describe|count|measure|list"
        r"|name|show|find|locate|point)",
        "",
    ),
    (
        r"^\s*(?:i am |we are )?(?:looking|searching) for (the .+?)"
        r" (?:what|which)(?: one)? is (?:it|that)$",
        r"what is \1",
    ),
    (r"^\s*(?:is|would) it (?:be )?possible (?:for you )?to (?=tell|say|show|give|measure)", ""),
    (r"^\s*do you know\b|^\s*what i (?:want to know|wonder) is\b", ""),
    (r"^\s*(?:telling|tell)(?: me| us)?\b|^\s*(?:saying|say|about)\b", ""),
    (r"^\s*measure (?=from .+ to )", "distance "),
    (
        r"^\s*(?:measure|measuring) (?=(?:the|an?|this|that|my|your) (?:\w+ ){0,3}\w+$)"
        rf"(?!.*\b(?:{_DIMENSION}|{_UNMEASURED})\b)",
        "size of ",
    ),
    (r"^(?:how much|what) (?:do|does) (.+) measure$", r"size of \1"),
    (r"^(how (?:long|wide|deep|tall|high)) (?:do|does) (.+) measure$", r"\1 is \2"),
    (r"^(how (?:big|large|long|wide|tall|high|far)) (the .+) to be$", r"\1 is \2"),
    (
        r"^(how (?:big|large|long|wide|deep|tall|high|far)) (?:may|might|would|could) (.+) be\b"
        r"(?!.* if\b)",
        r"\1 is \2",
    ),
    (r"^(what|which \w+) would be(?= (?:the )?(?:nearest|closest)\b)(?!.* if\b)", r"\1 is"),
    (
        rf"^(where|(?:what|which) (?:colou?r|{_DIMENSION})"
        rf"|what(?= (?:would|might|may|could) the (?:{_DIMENSION}) of))"
        r" (?:would|might|may|could) (the .+) be$",
        r"\1 is \2",
    ),
    (r"^(how \w+|what|where) (is|are) (?:it|they|that) (the .+)$", r"\1 \2 \3"),
    (r",? (?:or not|yes or no)$|\bso (?=(?:is|are|where|what|which|on)\b)", ""),
    (r"^\s*(?:check|find out|work out|figure out|determine|estimate|measure|measuring)\b", ""),
    (r"^\s*(?:state|report|return|output) (?=(?:the|how|what|which|all)\b)", ""),
    (r"^\s*(?:calculate|compute|specify|indicate|provide)\b|^\s*(?:giving|give)(?: me| us)?\b", ""),
    (
        r"^\s*i (?:am|was) (?:looking|searching) for (.+?) (?:is|are) there (?:one|any|some)$",
        r"is there \1",
    ),
    (r"^\s*would there (?:happen to )?be\b", "is there"),
    (
        r"^\s*(?:whether|if) ((?:the|your|my) (?:(?!is\b|are\b)\w+ )+)(?:is|are|stands?|lies?)\b",
        r"is \1",
    ),
    (r"^\s*(?:whether|if)\b(?= (?:there|the|a|an|any|you can see))", ""),
    (r"^\s*(?:is it true|is it the case|am i right) that (the .+?) (?:is|are)\b", r"is \1"),
    (r"^\s*(?:is it true|is it the case|am i right) that there (?:is|are)\b", "is there"),
)

# What says that the whole scene is meant: every question is about it.
ROOM = rules(
    (rf"^(.*\b(?:the|this|your|our) (?:{ROOMS})\b.*) in it$", r"\1"),
    (rf"\b(?:has|have) (?:the|this) (?:{ROOMS}) got\b", "see"),
    (
        rf"\b(?:here )?(?:in|inside|within|around|of|across|from) (?:the|this|that|your|our|my)"
        rf" (?:whole |entire )?(?:{ROOMS})\b",
        "",
    ),
    (
        rf"\b(?:the|this|your|our) (?:{ROOMS}) poss (?=(?:largest|biggest|tallest|highest)\b)",
        "the ",
    ),
    (
        r"\bover here\b|\b(?:in|around) here\b|\bin there\b|\banywhere\b|\bsomewhere\b"
        r"|\bin (?:view|sight)\b",
        "",
    ),
    (
        rf"\b(?:do|does) (?:the|this|your|our) (?:{ROOMS}) (?:have|contain|hold|include)\b",
        "see",
    ),
    (rf"\b(?:the|this|your|our) (?:{ROOMS}) (?:has|contains|have|contain)\b", "see"),
)

# Words that name nothing: where a frame does not ask for them, a question is not read.
CLOSED = word_set("""
    above across after again against ago ahead all already always am and another anybody anyone
    apart are around as at away be because been before behind being below beside best between bigger
    both broad but buy by can cause color comparison connection contain contrast cost could count
    deep depth describe detail did difference differences direction do does done down during each
    either else enough ever every everybody everyone exactly facing far farthest favorite favourite
    few first for from front full furthest get give go goes going got had have he heavy height her
    here high highest him his how i if ignore in inside instead into is it itself just kept kind
    know large larger last least left length let like list locate located long look looks lot lowest
    made make many match may me mean more most move moved much must name near nearest need neither
    never no nobody nor not number of off often old on once only open or other ought our out outside
    over own painted past per please point position poss preferred put quite related relation
    relationship robot same say see seen shall she shortest should show side similarity since size
    smaller smallest so somebody someone soon still such take tall taller tallest tell than that
    their them then there these they this those through till to today together tomorrow too took top
    toward towards translate try under until up us use used using very via wait want was way we well
    went were what when where whether while who whole whom whose why wide wider width will with
    within without wonder would write yesterday yet you yours
""")
