"""The closed words of the questions that are read: what is said for what, and what may be left out.

The rules are applied in order to a question in small letters without punctuation; of what is left,
words that are in no table here and in no frame are taken to name things.
"""

from __future__ import annotations

import re

from ada3d_ros.asking.words import COLORS

Rule = tuple[re.Pattern[str], str]


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), written) for pattern, written in pairs)


_COLOR = "|".join(sorted(COLORS))
_NUMBERS = r"two|three|four|five|six|seven|eight|nine|ten|\d+"
_GROUND = "floor|ground|space|room|area"
_FREE = "(?:free|empty|clear|unoccupied)"
_OWN_PLACE = (
    "where (?:you|i) (?:are|am|stand)(?: now| standing)?"
    "|(?:my|your|the robot(?:'s| poss)) (?:point of view|viewpoint|perspective|view|position|place)"
)
_ROOM = "room|scene|house|view|map|apartment|flat|area|picture|place|environment|home|office"

_UNMEASURED = (
    "distance|gap|separation|extents?|space|room|floor|area|volume|temperature|time|weight|speed"
    "|angle|brightness|noise|humidity|pressure"
)
_DIMENSION = "size|height|width|length|depth|dimensions?|measurements?|measures"
_PLAIN_NOUN = r"(?:\w+ )*\w*[^s\W]"

CONTRACTIONS = rules(
    (r"\blet'?s (?:say|assume|suppose|imagine|pretend)(?: that)?\b", "suppose"),
    # 's that stands for `is` behind another word than those of the next rule
    (
        r"\b(how \w+|(?:what|which) (?:colou?r|hue|size|height|width|length|object|thing|item|one"
        r"|side))'s\b(?! (?:colou?r|size|height|width|length)\b)",
        r"\1 is",
    ),
    (r"'s (?=(?:what|which|how|where)\b)", " is "),
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
    (rf"\b({_DIMENSION}) ((?:in|as) \w+) (of .+?)(?=\W*$)", r"\1 \3 \2"),
    (r"\bw/in\b", "within"),
    (r"\bhow(many|much|far|big|large|tall|high|long|wide)\b", r"how \1"),
    (r"\binfront\b", "in front"),
    (r"\bnextto\b", "next to"),
    (r"\bontop\b", "on top"),
    (r"\bi'm\b", "i am"),
    (r"\bi'd\b", "i would"),
    (r"\bi've\b", "i have"),
    (r"n't\b", " not"),
    (r"'s\b", " poss"),
    (r"(?<=s)'(?=\s)", " poss"),
    (r"\b(is|are) their\b", r"\1 there"),
    (r"\bhow m[any]{2,4}\b", "how many"),
    (r"\b(trash|garbage|rubbish|waste|watering) (cans?)\b(?! (?:you|i|we|be)\b)", r"\1\2"),
)

# Greetings, politeness and fillers: they change no meaning and go.
POLITE = rules(
    (r"^(?:hey|hi|hello|ok|okay|well|so|excuse me|sorry|now|dear)(?: there)?(?: robot)?\b", ""),
    (r"^robot\b", ""),
    (r"^\s*(?:caption|tell (?:me|us) (?:more )?about|talk about)\b", "describe"),
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
        r"\b(?:directly|immediately)(?= (?:on|under|below|beneath|above|between|next|beside|near)\b)",
        "",
    ),
    (r"\b(?:in a few words|briefly|in one (?:sentence|word))\b", ""),
    (r"\b(?:would you (?:say|guess|estimate|reckon)|do you (?:think|reckon|believe))\b", ""),
    (r"\b(?:please|pls|plz|kindly|thanks|thx|thank you(?: very much)?)\b", ""),
    (r"\b(?:exactly|precisely|currently|roughly|approximately|approx)\b", ""),
    (r"\b(?:about|around)(?= how\b)|(?<= )(?:about|more or less|at a guess|or so)$", ""),
    (
        r"\b(?:approximate|rough|estimated|exact|precise|overall)"
        rf"(?= (?:distance|position|location|number|place|{_DIMENSION})\b)",
        "",
    ),
    (r"^\s*(?:can|could|do) you see (?=(?:what|how|where|which|whether|if)\b)", ""),
    (r"^(what (?:is|are) .+) (?:called|named)$", r"\1"),
    (r"^(where|what|how \w+) is it that\b", r"\1"),
    (r"\b(?:right now|at the moment|in total|altogether|overall|for me|by (?:any )?chance)\b", ""),
    (r"\b(?:just|also|actually|in your opinion|as far as you can (?:see|tell))\b", ""),
    (
        r"^\s*(?:(?:can|could|would|will) you(?: be so kind as to| be able to)?|would you mind"
        r"|are you able to) (?=(?:tell|say|show|giv|check|count|find out|point|describ|locat|nam"
        r"|list|let|measur|estimat|work|identify|calculat))",
        "",
    ),
    (
        r"^\s*i (?:would|want|need|wish)(?: like| love)?(?: you)? to (?:know|find out|see|learn"
        r"|tell me|say)\b",
        "",
    ),
    (r"^\s*(?:i (?:am|was) (?:wondering|curious)(?: about)?|i wonder|any idea|let me know)\b", ""),
    (r"^\s*do you (?:happen to )?know\b|^\s*what i (?:want to know|wonder) is\b", ""),
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
    (r",? or not$", ""),
    (r"^\s*(?:check|find out|work out|figure out|determine|estimate|measure|measuring)\b", ""),
    (r"^\s*(?:calculate|compute)\b|^\s*(?:giving|give)(?: me| us)?\b", ""),
    (
        r"^\s*i (?:am|was) (?:looking|searching) for (.+?) (?:is|are) there (?:one|any|some)$",
        r"is there \1",
    ),
    (r"^\s*would there (?:happen to )?be\b", "is there"),
    (r"^\s*(?:whether|if)\b(?= (?:there|the|a|an|any|you can see))", ""),
    (r"^\s*(?:is it true|is it the case|am i right) that (the .+?) (?:is|are)\b", r"is \1"),
    (r"^\s*(?:is it true|is it the case|am i right) that there (?:is|are)\b", "is there"),
)

# What says that the whole scene is meant: every question is about it.
ROOM = rules(
    (rf"\b(?:has|have) (?:the|this) (?:{_ROOM}) got\b", "see"),
    (
        rf"\b(?:here )?(?:in|inside|within|around|of|across|from) (?:the|this|that|your|our|my)"
        rf" (?:whole |entire )?(?:{_ROOM})\b",
        "",
    ),
    (
        r"\bover here\b|\b(?:in|around) here\b|\bin there\b|\banywhere\b|\bsomewhere\b"
        r"|\bin (?:view|sight)\b",
        "",
    ),
    (
        rf"\b(?:do|does) (?:the|this|your|our) (?:{_ROOM}) (?:have|contain|hold|include)\b",
        "see",
    ),
    (rf"\b(?:the|this|your|our) (?:{_ROOM}) (?:has|contains|have|contain)\b", "see"),
)

# One word for each thing that the frames of the grammar look for. Whole turns of phrase first.
TURNS = rules(
    (rf"\b(?:something|anything|things?|objects?|one) ({_COLOR})$", r"\1 object"),
    (rf"\b(?:has|have) (?:the )?colou?r ({_COLOR})\b", r"is \1"),
    (r"^any (?!of)", "is there any "),
    (r"\bat least (?:one|an?)\b", "a"),
    (r"\bin (?:what|which) (?:place|spot|part|corner)\b", "where"),
    (r"\bat (?:the )?(?:position|place|point|location|coordinates?|spot) (?=PLACE)", "at "),
    (r"\bidentify\b", "name"),
    (rf"\bdescribe (?:the|this|your|our) (?:whole |entire )?(?:{_ROOM})$", "list what see"),
    (r"\b(?:enumerate|list out|an? list of|list of|an? inventory of)\b", "list"),
    (r"\b(?:anyone|anybody|someone|somebody)(?= (?:there|here|around)$|$)", "a person"),
    (r"^(is|are) (.+) to be (?:seen|found)$", r"\1 \2 see"),
    (
        rf"^(?:what is )?(the {_PLAIN_NOUN})s (?=(?:colou?r|size|height|width|length|position)$)",
        r"what is \1 poss ",
    ),
    # places in brackets need no word for a place
    (r"\b(?:the )?(?:position|place|point|location|coordinates?|spot) (?=PLACE)", ""),
    # distances
    (
        r"^(?:by )?(?:how much|what distance|how far) (?=(?:is|are) .+ (?:separated|apart)\b)",
        "how far ",
    ),
    (r"\bseparated(?: by)?$|\bseparated (?=from\b)", "apart "),
    (r"\b(?:away |apart )?from (?:each other|one another)\b", "apart"),
    (r"\bhow long is the (?:way|path|route|walk|stretch)\b", "how far is it"),
    (r"\bdistance (?:that )?(the .+?) has (?:from|to) ", r"distance from \1 to "),
    # what is said of a thing before what it is asked for
    (
        r"^where (?:was|were) (.+) when (?:you|i|we) (?:last )?(?:saw|seen) (?:it|them)(?: last)?$",
        r"where did i last see \1",
    ),
    # heights
    (r"\bfrom the (?:floor|ground) (?:up )?to (?:the )?top of\b", "of"),
    (r"^(how (?:high|far))(?: up)? (?:off|over) (?=the (?:floor|ground)\b)", r"\1 above "),
    (r"^how far up (?=(?:is|do|does)\b)", "how high "),
    (r"^(?:up )?to (?=what height\b)", ""),
    (r"\b(?:go|goes|extend|extends|rise|rises|come|comes)(?: up)?$", "reach"),
    # floor that is left over, or free
    (rf"^how much of the ({_GROUND}) (.+) (?:is|are) {_FREE}$", r"how much free \1 is \2"),
    (rf"^is (?:the|any|some|there) ({_GROUND}) (.+) {_FREE}$", r"is there free \1 \2"),
    (rf"^how much is {_FREE}\b", "how much free floor is"),
    (rf"\b(?:any |some )?({_GROUND}) {_FREE}(?= )", r"free \1"),
    (
        r"^((?:how (?:much|big|large|wide)|is there|what|where).*\b(?:room|space|floor|place|area)"
        r"(?: (?:is|are|do (?:i|we|you) have))?(?: there)?) left(?! of\b)",
        r"\1 free",
    ),
    (
        r"^(how much .+?) (?:do|does) (.+) have (beside|next to|around|near|by) (?:it|itself)$",
        r"\1 is there \3 \2",
    ),
    (r"^(how much (?:\w+ )*(?:room|space|floor|place|area)\b.*)\bbesides\b", r"\1beside"),
    (r"\bhow much place\b", "how much space"),
    (r"^count up(?= (?:all|the))", "count"),
    # from where something is seen
    (r"\b(?:picture|imagine) (?:yourself|myself|ourselves|me|you)\b", "imagine i"),
    (r"\bwith (?:my|your|the) back (?:turned )?(?:to|towards|against) ", "at "),
    (r"\b(?:viewed|observed|watched|looked at) from\b", "seen from"),
    (r"\bin (?:the )?direction (?:of|to)\b|\btoward\b", "towards"),
    (r"\b(?:with|having) (.+?) (?:in front|ahead) of (?:me|you)(?= |$)", r"facing \1"),
    (
        r"\b(?:do|would|will) (?:i|you) (?:have|find|see) (the .+?)"
        r" (?=(?:on|to|at) (?:(?:my|your|the) )?(?:left|right)\b|behind (?:me|you)\b"
        r"|in front of me)",
        r"is \1 ",
    ),
    (
        rf"^(?:(?:as )?(?:seen|viewed|looking) )?from (?:me|you|here|{_OWN_PLACE})\b"
        r"(?=.*\b(?:left|right)\b)(?!.*\b(?:fac\w+|look\w*|gaz\w+)\b)",
        "",
    ),
    (r"(?<!lamp )\bshade (?=(?:of|is|are|does|do|has|have)\b)", "color "),
    (r"^(in (?:what|which) colou?r) (?:was|were)\b(?=.* painted$)", r"\1 is"),
    (r"^(how many .+) (?:can|could|do|did) (?:you|we|i) count$", r"\1 see"),
    (r"^(how many .+) (?:you|we|i) have$", r"\1 see"),
    (
        r"\b(?:take|occup)(?:s|y|ies)? (?:up )?(?:the )?most (?:space|room|volume)\b",
        "is the largest",
    ),
    (
        r"\bhow far (?:do|would|must|should|will) (?:i|you|one|we|robot)(?: (?:have|need) to)?"
        r" (?:go|walk|drive|travel|move|get) from (.+?) to (?:get to |reach )?",
        r"how far is it from \1 to ",
    ),
    (r"^(how (?:far|close|near)(?: away)?) am i\b", r"\1 are you"),
    (r"^point (?:me|us) (?:to|towards|at)\b", "point at"),
    (r"\bin the space between\b", "between"),
    (r"\bsuch a thing as\b|\b(?:some|any) (?:kind|sort|type)s? of(?= \w)", ""),
    (r"^how far does (.+) (?:stand|lie|sit)(?: away)? (?=from\b)", r"how far is \1 "),
    (r"^how (high|far) up\b", r"how \1"),
    (r"\bdescribe in (?:full |some )?detail\b", "describe"),
    (r"^(?:is|are)(?: there)? (?:anything|something) (.*) and what$", r"what is \1"),
    (r"^(?:does|do) (.+) (?:carry|support|hold|bear) (.+)$", r"is \2 on \1"),
    (r"^was (.+) (?:put|placed) (on|under|beneath)\b", r"is \1 \2"),
    (r"\bwhere can (.*) be (?:found|seen)\b", r"where is \1"),
    (r"^can (.*?) be (?:found|seen)\b", r"is there \1"),
    (r"\bwith (.+?) (?:at|to|behind) (?:my|your) back\b", r"at \1"),
    (r"\bdo (?:i|you) have (the .+?) (?=on|behind|to|in front|at)", r"is \1 "),
    (r"\b(?:has|have|was|were) (?:been )?(?:put|placed)\b", "is"),
    (r"\bcount how many\b", "how many"),
    (r"\b(?:name|list|find|show|show me) (?=(?:what|which)\b)", ""),
    (r"\bwhereabouts\b(?! of)", "where"),
    (r"\bshow (?:me|us)\b", "show"),
    (r"(?<=\bthe )only\b", ""),
    (rf"\b({_NUMBERS}) (nearest|closest)\b", r"\2 \1"),
    (r"\bpieces? of furniture\b", "object"),
    # `which` between a noun and its clause
    (
        r"(?<=\w)(?<!\bof)(?<!\bin)(?<!\bon)(?<!\band)(?<!\bto)(?<!\bat) which"
        r" (?=(?:is|are|stands?|lies?|has|have)\b)",
        " that ",
    ),
    (r"\bwhich\b", "what"),
    (r"\bcolou?r(?:ed|s)?\b|\bhue\b|\bcolou?ring\b", "color"),
    (r"(?<=color )(?:that|which) (?=is|are|be)", ""),
    # the robot, and where one stands
    (
        r"\b(?:the robot|the camera|your|my)(?: poss)?(?: own)? (?:position|location|place)\b",
        "robot",
    ),
    (r"\byourself\b|\bmyself\b|\b(?:the|this) (?:robot|camera)(?: itself)?\b", "robot"),
    (r"\bwhere (?:you|i) (?:are|am)(?: now| standing)*\b(?! (?:at|by))", "robot"),
    (r"\b(from|to|of) here\b", r"\1 robot"),
    (r"\bhere\b", ""),
    (
        r"\b(if|when|suppose|imagine|while|that) (?:one|someone|somebody|a person|you|robot)"
        r"(?= (?:stands?|standing|is|are|faces?|were)\b)",
        r"\1 i",
    ),
    (
        r"\b(?:relative to|as seen from|seen from|with respect to|from) (?:me|you|there|robot"
        r"|that (?:spot|position|place|point)|my (?:view|point of view|perspective))\b"
        r"(?=.*\b(?:stand|standing|facing|face|looking|look)\b)",
        "",
    ),
    (
        r"^(.*\b(?:left|right)\b.*?)\s(?:as )?(?:seen|viewed|looking)? ?from (?:you|me|robot"
        r"|(?:your|my) (?:point of view|viewpoint|perspective))$",
        r"\1",
    ),
)

# Words that name nothing: where a frame does not ask for them, a question is not read.
CLOSED = word_set("""
    above across after again against ago ahead all already always am and another anybody anyone
    apart are around as at away be because been before behind being below beside best between bigger
    both broad but buy by can cause color contain cost could count deep depth describe detail did
    direction do does done down during each either else enough ever every everybody everyone facing
    far farthest few first for from front full furthest get give go goes going got had have he heavy
    height her here high highest him his how i if ignore in inside instead into is it itself kept
    kind know large larger last least left length let like list locate located long look looks lot
    lowest made make many match may me mean more most move moved much must name near nearest need
    neither never no nobody nor not number of off often old on once only open or other ought our out
    outside over own painted past per please point position poss put quite related robot same say
    see seen shall she shortest should show side since size smaller smallest so somebody someone
    soon still such take tall taller tallest tell than that their them then there these they this
    those through till to today together tomorrow too took top toward towards translate try under
    until up us use used using very via wait want was way we well went were what when where whether
    while who whole whom whose why wide wider width will with within without wonder would write
    yesterday yet you yours
""")
