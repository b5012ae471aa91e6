"""Whole turns of phrase, each written as the shorter one that the cues and frames know.

Applied behind the politeness and the room of lexicon.py, and before the sides and cues of cues.py.
"""

from __future__ import annotations

from ada3d_ros.asking.lexicon import ROOMS, rules
from ada3d_ros.asking.words import COLORS

_COLOR = "|".join(sorted(COLORS))
_NUMBERS = r"two|three|four|five|six|seven|eight|nine|ten|\d+"
_OWN_PLACE = (
    "where (?:you|i) (?:are|am|stand)(?: now| standing)?"
    "|(?:my|your|the robot(?:'s| poss)) (?:point of view|viewpoint|perspective|view|position|place)"
)
_PLAIN_NOUN = r"(?:\w+ )*\w*[^s\W]"
_GROUND = "floor|ground|space|room|area"
_FREE = "(?:free|empty|clear|unoccupied)"

# One word for each thing that the frames of the grammar look for. Whole turns of phrase first.
TURNS = rules(
    (r"\bbetween (?:the|these|those) two (?:objects|things|items) (?=the )", "between "),
    (
        r"^(how far|how many UNIT0) (?:do|would|must|will) (?:i|you|we|one) (?:have to |need to )?"
        r"(?:drive|walk|go|travel|move) (?:to reach|to get to|to) ",
        r"\1 is it to ",
    ),
    (r"^(?:(?:can|could|will) you )?find (?=what (?:is|are) )", ""),
    (r"^(how many .+) so far$", r"\1"),
    (r"\bpainted in$", "painted"),
    (
        r"^(?:is|are) (.+) and (the .+) (?:within|less than|closer than) (LEN\d+)"
        r"(?: of (?:each other|one another)| apart)?$",
        r"is \1 within \3 of \2",
    ),
    (
        r"^(?:i am|i was|we are) (?:looking|searching) for (.+) where (?:is|are) (?:it|they)$",
        r"where is \1",
    ),
    (rf"^(?:does|do) (.+) have an? ({_COLOR}) colou?r$", r"is \1 \2"),
    (rf"^(is|are) (.+) of ({_COLOR}) colou?r$", r"\1 \2 \3"),
    (r"^how much (?=\w+s (?:are|do|can)\b)", "how many "),
    (r"\b(?:at|by|to) the side of\b", "beside"),
    (rf"^(is|are) (?!there\b)(.+) an? ({_COLOR}) (?:one|thing|object)$", r"\1 \2 \3"),
    (r"^(you|i) (?:are|am) (how far (?:away )?from .+)$", r"\2 are \1"),
    (
        r"^how much (?:space|room|distance|of a gap) (?:is|are)(?: there)? from"
        r" (?=.+ (?:to|until) )",
        "how far is it from ",
    ),
    (r"\b((?:distance|from) .+) (?:until|till) ", r"\1 to "),
    (r"^(how much (?:room|space|place) (?:is|are)(?: there)?) on the (?:floor|ground)\b", r"\1"),
    (rf"\b(?<!est )(?:something|anything|things?|objects?|one) ({_COLOR})$", r"\1 object"),
    (rf"\b(?:has|have) (?:the )?colou?r ({_COLOR})\b", r"is \1"),
    (r"^any (?!of)", "is there any "),
    (r"\bat least (?:one|an?)\b", "a"),
    (r"\bin (?:what|which) (?:place|spot|part|corner)\b", "where"),
    (r"\bat (?:the )?(?:position|place|point|location|coordinates?|spot) (?=PLACE)", "at "),
    (r"\bidentify\b", "name"),
    (r"^where to (?:find|look for|see) ", "where is "),
    (r"\bdistance (?:that )?(you|i) have (?:from|to) ", r"distance from \1 to "),
    (r"^describe (?:(?:to|for) )?(?:me|us)\b", "describe"),
    (r"^got (?=(?:any|an?|some)\b)", "is there "),
    (r"\b(has|have) ((?:the|your|my) .+) got$", r"\1 \2"),
    (rf"\b(\w+) (?:of|in) ({_COLOR}) colou?r\b", r"\2 \1"),
    (rf"\b({_COLOR}) ?-?colou?red\b", r"\1"),
    (r"\b(?:over|across|through|all the way) to\b", "to"),
    (
        r"\bwith (?:my|your) (?:eyes|face|gaze|nose|front)(?: turned)? (?:on|to|towards?|at) ",
        "facing ",
    ),
    (rf"\bdescribe (?:the|this|your|our) (?:whole |entire )?(?:{ROOMS})$", "list what see"),
    (r"\b(?:enumerate|list out|an? list of|list of|an? inventory of)\b", "list"),
    (r"\b(?:anyone|anybody|someone|somebody)(?= (?:there|here|around)$|$)", "a person"),
    (r"^(is|are) (.+) to be (?:seen|found)$", r"\1 \2 see"),
    (
        rf"^(?:what is )?(the {_PLAIN_NOUN})s (?=(?:colou?r|size|height|width|length|position)$)",
        r"what is \1 poss ",
    ),
    # places in brackets need no word for a place
    (r"\b(?:the )?(?:position|place|point|location|coordinates?|spot) (?=PLACE)", ""),
    # said as a statement, or in a clause
    (
        r"^(the (?:distance|colou?r|size|height|width|length|position)\b.*) what is (?:it|that)$",
        r"\1",
    ),
    (r"^(the (?:nearest|closest|distance)\b.+) (?:is|are) what$", r"what is \1"),
    (r"^(the (?:\w+ )?(?:nearest|closest)\b.+) (?:is|are)$", r"what is \1"),
    (r"\b(nearest|closest) neighbou?rs\b", r"\1 objects"),
    (r"\bin (?:the )?(?:closest|nearest) proximity (?:to|of)\b", "closest to"),
    (r"\bin (?:close|immediate|direct) proximity (?:to|of)\b", "next to"),
    (r"^(how (?:close|near) .+) to (?:each other|one another)$", r"\1"),
    (r"\bat a distance of (?=less|fewer|at most|up to|under|below|no more|not more)", ""),
    (r"(the (?:\w+ )?\w+) poss top\b", r"the top of \1"),
    (r"^where at\b", "where"),
    (
        r"\b(i|you) (?:position|place|put|station) (?:myself|yourself|me)\b",
        r"\1 am",
    ),
    (
        r"\b(colou?r|size|dimensions?|height|width|length|depth|position|location)"
        r" (?:that )?(the .+) (?:has|have)$",
        r"\1 of \2",
    ),
    (r"^(how many|which|what) (?:different|distinct|individual)\b", r"\1"),
    (
        r"\b(stand(?:ing|s)?|stood|am|are|be|being|was|were) where (the .+?) (?:is|stands|lies)\b",
        r"\1 at \2",
    ),
    (r"^(?:were|should) (i|you|one) (?:to )?(?=stand|be|face|look)", r"if \1 "),
    (r"^(?:go|walk|move|drive) to (?=.+\b(?:fac(?:e|ing)|look|looking|turn)\b)", "at "),
    (
        r"^(?:has|have|was|were) ((?:any|some)thing|(?:an?|any|some) .+?) (?:been )?"
        r"(?:put|placed|laid|left|set|stood) (?=on|under|between|next|beside|near)",
        r"is there \1 ",
    ),
    (
        r"^(the .+?|an? .+?) (?:is|are|stands?|lies?|sits?)"
        r" (how (?:far|big|large|long|wide|deep|tall|high|close|near"
        r"|many \w+(?: (?:tall|high|long|wide|away|apart))?))\b",
        r"\2 is \1",
    ),
    (
        r"^(?:does|do) (.+) have ((?:an?|any|some) .+|anything|something) (on|under|beneath|between"
        r"|next to|beside|near) (?:it|them)$",
        r"is there \2 \3 \1",
    ),
    # distances
    (r"\bfar removed\b", "far"),
    (r"^(how high) from (?=the (?:floor|ground)\b)", r"\1 above "),
    (r"\bhow much of an? ", "how much "),
    (r"\b(?:on|to) (?:which|what) hand\b", "on what side"),
    (r"\b(?:are|am|is) (?:you|i|we) (?:seeing|finding)\b", "see"),
    (r"^(?:at |by )?what distance(?= (?:is|are|does|do)\b(?! there))", "how far"),
    (
        r"^(?:by )?(?:how much|what distance|how far) (?=(?:is|are) .+ (?:separated|apart)\b)",
        "how far ",
    ),
    (r"\bseparated(?: by)?$|\bseparated (?=from\b)", "apart "),
    (r"\b(?:away |apart )?from (?:each other|one another)\b", "apart"),
    (r"\bhow long is the (?:way|path|route|walk|stretch)\b", "how far is it"),
    (r"\bhow long is it(?= from .+ to )", "how far is it"),
    (r"\bdistance (?:that )?(the .+?) has (?:from|to) ", r"distance from \1 to "),
    # what is said of a thing before what it is asked for
    (
        r"^where (?:was|were) (.+) when (?:you|i|we) (?:last )?(?:saw|seen) (?:it|them)(?: last)?$",
        r"where did i last see \1",
    ),
    (
        r"^(when|where) was the last time (?:that )?(?:you|i|we) (?:saw|have seen|had seen)\b",
        r"\1 did i last see",
    ),
    # heights
    (r"\bfrom the (?:floor|ground) (?:up )?to (?:the )?top of\b", "of"),
    (r"^(how (?:high|far))(?: up)? (?:off|over|up from) (?=the (?:floor|ground)\b)", r"\1 above "),
    (r"^how far up (?=(?:is|do|does)\b)", "how high "),
    (r"^(?:up )?to (?=what height\b)", ""),
    (r"\b(?:go|goes|extend|extends|rise|rises|come|comes|end|ends)(?: up)?$", "reach"),
    # floor that is left over, or free
    (rf"^how much (?:of the )?({_GROUND}) (.+) (?:is|are) {_FREE}$", r"how much free \1 is \2"),
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
    (
        r"\b(?:from the (?:point of view|viewpoint|perspective|view|position|place) of|relative to"
        r"|as seen by|seen by|for|to) (?:someone|somebody|a person|one|an observer)"
        r"(?: who is| who)? (?=at|by|near|next|beside|stand)",
        "",
    ),
    (
        r"\bfrom the (?:point of view|viewpoint|perspective|view|position|place) of"
        r"(?=.*\b(?:facing|looking|towards)\b)",
        "from",
    ),
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
        r"\bhow far (?:does|do|would|must|should|will|have) (?:i|you|one|we|robot)"
        r"(?: (?:have|need|got) to)?"
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
