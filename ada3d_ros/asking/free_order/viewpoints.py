"""Turns of phrase for the scene, sides, and from where something is seen; see `phrases.py`."""

from __future__ import annotations

from ada3d_ros.asking.free_order.cues import NAMES, SPOT
from ada3d_ros.asking.lexicon import ROOMS, rules

_THEIRS = "my|your|his|her|its|it is|their|our|the|one poss|ones|that person poss|the observer poss"
_THEM = (
    "me|you|him|her|them|us|one|someone|somebody|anyone"
    "|(?:the |that |this |an? )?(?:robot|viewer|observer|person|agent|visitor|worker"
    "|guest|man|woman)"
)
_LOOK = (
    "(?:fac(?:e|es|ed|eing|ing)|look(?:s|es|ed|ing)?|gaz(?:e|es|ed|ing)|star(?:e|es|ed|ing)"
    "|turn(?:s|ed|ing)?)"
)
_SELF = "myself|yourself|himself|themselves"

VIEWPOINTS = rules(
    # the scene
    (
        r"\b(?:in|inside|within|around|of|across|from|about|throughout)"
        r"(?: (?:the|this|that|your|our|my))?(?: (?:whole|entire|present|current|same))?"
        rf" (?:{ROOMS}|world)\b(?! (?:of|PLACE))(?: here| there)?",
        " HERE ",
    ),
    (
        r"\b(?:the|this|that|your|our) (?:room|scene|house|place)\b(?: here| there)?"
        r"(?= (?:has|have|poss|got|contain|compris|includ|hold|is))",
        " HERE ",
    ),
    (
        r"\bin (?:here|there|(?:your |the )?(?:view|sight))\b|\b(?:some|any)(?:where|place)\b"
        r"|\bover (?:here|there)\b",
        " HERE ",
    ),
    (
        r"\bHERE (?:holds?|contains?|includes?|comprises|has|have|poss got)\b"
        r"|\bHERE (?=contain|hold|includ)",
        " HERE see ",
    ),
    # as the robot sees it
    (
        r"\b(?:as|how|(?:in )?the way) (?:you|i) (?:are |am )?(?:fac(?:e|ing)|look(?:ing)?"
        r"|turned|oriented|see it)"
        r"(?: (?:right )?now| at present| at the moment)?(?= |$)(?! (?:at|to))"
        r"|\b(?:from )?where (?:you|i) (?:are |am )?(?:facing|looking|face|look)(?: from)?"
        r"(?: (?:right )?now| at present| at the moment)?(?! (?:at|to))"
        r"|\b(?:seen|viewed) (?:by|from) you\b|\bas (?:you see|seen by you)(?: it| them| "
        r"things)?\b"
        r"|\b(?:looking )?(?:in|from|on|through) (?:the|your)(?: (?:present|current"
        r"|actual|own))? (?:camera )?"
        r"(?:view|image|camera)\b(?! of)"
        r"|\bfrom your(?: (?:present|current|actual|own))?"
        rf" (?:viewpoint|point of view|perspective|view|side|{SPOT})\b(?! to)(?=.*\b(?:left"
        rf"|right|side"
        r"|behind|front|direction|way)\b)",
        " VIEW ",
    ),
    (r"\bfurther (?:to the )?(left|right) than\b", r"\1 of"),
    (r"\b(?:when )?viewing (?=the)", " facing "),
    (r"\bfrom (?:them|him|her|that person)$", " FROMTHERE "),
    # where somebody stands, and what is faced from there
    (rf"\b(from|to|of|by|near|around|between|and) (?:the )?(?:{SPOT}) (?=PLACE)", r"\1 "),
    (rf"\bat (?:the )?(?:{SPOT}) (?=PLACE)|\bthe (?:{SPOT})(?: at)? (?=PLACE)", " at "),
    (r"\bas (?:(?:my|your|the|an?) )?(?:position|place|spot|viewpoint|standpoint)\b", " ASPLACE "),
    (r"\bas (?:what|the thing(?: that)?) i (?:look|am looking) at\b", " FACED "),
    (
        r"\b(?:from )?the (?:viewpoint|point of view|perspective|view|eyes) of\b"
        r"|\b(?:viewed|seen|looked at) from\b",
        " from ",
    ),
    (r"\b(?:relative|with respect|in relation|in respect|in reference) to\b", " of "),
    (
        r"\b(?:have|take|having|taking) a (?:good |quick )?look(?: and)?\b|\blook(?=,? (?:and"
        r"|what|if))",
        " ",
    ),
    (r"\blooks? like\b|\blike (?=.* looks?$)|\bhow (?=(?:does|do) .* looks?$)", " LIKE "),
    (r"\b(?:looks?|appear)$", " LIKE "),
    (
        r"\b(?:been|i|you|we|they|they have|somebody|someone|anybody|anyone|has"
        r"|have) left\b(?! of| or| hand)",
        " placed ",
    ),
    (r"\b(floor|ground|space|room|gap)\b(.*)\bleft (?=\w)", r"\1\2placed "),
    (r"\bright (?=next|beside|by|now|behind|in front|near|at|there|here)", " "),
    (
        rf"\b(?:on|to|at|in|toward|towards)(?: (?:{_THEIRS}))? (left|right)(?:[- ]?hand)?(?: "
        rf"sides?)?"
        rf"(?: (?:of|from) (?:{_THEM})\b)?",
        r" SIDE\1 ",
    ),
    (rf"\b(?:{_THEIRS}) (left|right)(?:[- ]?hand)?(?: sides?)?\b", r" SIDE\1 "),
    (rf"\b(left|right)(?:[- ]?hand)?(?: sides?)?(?: (?:of|from) (?:{_THEM})\b)?", r" SIDE\1 "),
    (
        rf"\b(?:straight |right |directly |dead )?behind(?: of)? (?:{_THEM})\b"
        rf"|\b(?:at|to|on|in|behind) (?:{_THEIRS}) (?:back|rear)\b"
        r"|\bbehind$|\bbehind (?=or |if |when |while |FACE|YN|SIDE)|(?<=or )behind\b"
        r"|(?<=or )back\b|\bback (?=or )",
        " SIDEbehind ",
    ),
    (
        rf"\b(?:straight |right |directly |dead )?(?:in front of (?:{_THEM})|ahead(?: of "
        rf"(?:{_THEM}))?"
        rf"|in front(?! of)|before me)\b|\bfront (?=or )|(?<=or )front\b|(?<=SIDEright )front\b",
        " SIDEfront ",
    ),
    (
        rf"\b(?:with |having |and )?(?:aim(?:ed|ing)? )?(?:(?:{_THEIRS}) )?(?:(?:looking"
        rf"|viewing|view|look|gaze)"
        r" direction|eyes?|face|nose|gaze|view|front|heading|look)(?: (?:is|are|be|goes"
        r"|points?|turned"
        r"|directed|fixed))*(?: straight)?(?: (?:on|to|towards?|at)\b)",
        " FACE ",
    ),
    (r"\b(?:looking|viewing|view|look|gaze) direction\b", " FACE "),
    (
        rf"\b{_LOOK}(?: (?:{_SELF}|round|around))?(?: (?:and|to) face)?"
        r"(?: (?:straight|directly|across|over|out|right))*"
        r"(?: (?:in(?: the)? direction of|to|towards|toward|at|into|in)\b)*(?= )(?! (?:like|up"
        r"|for)\b)",
        " FACE ",
    ),
    (
        rf"\b(?:watch(?:es|ing)?|oriented?|orienting|pointing|pointed)(?: (?:{_SELF}))?"
        r" (?:in direction of|to|towards?|at)\b",
        " FACE ",
    ),
    (
        r"\bof (?:me|you|it|him|them)\b(?=.*FACE)|(?<=FACE)(.*)\bof (?:me|you|it|him|them)\b",
        r" \1 ",
    ),
    (
        r"\b(?:(?:(?:do|must|should|would) i|i (?:must|should)) )?(?:have to )?FACE (?:see|for) ",
        " would i see ",
    ),
    (r"\bin (?:the )?direction of\b", " towards "),
    (
        r"\bthe (?:side|direction|way)(?: on| in)?(?: which| that)?(?= (?:the|does|is"
        r"|falls)\b)",
        " WHICHSIDE ",
    ),
    (
        r"\b(?:on |to |at |in |from |towards )?(?:what|which)(?: hand)?"
        r" (?:side|direction|way|hand)\b(?: side)?(?: of (?:me|you|him|them|that person"
        r"|the (?:viewer|observer|person)))?|\b(?:the )?direction of(?= the)|^direction\b"
        r"|\b(?:the )?(?:side|direction) of\b",
        " WHICHSIDE ",
    ),
    (r"\bfrom (?:there|that (?:place|spot|position|point))\b", " FROMTHERE "),
    (
        r"\b(?:go|goes|going|went|walk(?:s|ed|ing)?|move|step)(?: over| up)?(?: and stand)? (?:to"
        r"|at|by)\b(?=.*FACE)"
        r"|\b(?:stand|stands|standing|stood|stay|stays|staying|sat|sit|sits|seated"
        r"|sitting|am|are|is|be"
        r"|being|placed"
        r"|park|parked"
        r"|stationed|wait|waiting|lean|leaning|positioned|were|position|put|place|located)(?: "
        r"(?:myself|yourself))?(?: over)?"
        r" (?:at|by|beside|next to|near|where|from|in(?! front)|on)(?= [a-z]"
        r"| PLACE)(?! it\b)(?=.*FACE)",
        " STANDAT ",
    ),
    (r"\b(?:my|your) (?:position|standpoint|viewpoint|place) is\b(?=.*FACE)", " STANDAT "),
    (r"^(?:the )?(?:position|standpoint|viewpoint)\b(?=.*FACE)", " STANDAT "),
    (r"^(?:my|your) (?:position|standpoint|viewpoint|place)\b(?=.*FACE)", " STANDAT "),
    (
        r"\bfrom (?:his|her|their|my|your|that) (?:viewpoint|point of view|perspective|position)\b"
        r"(?=.*FACE)|(?<=FACE)(.*)\bfrom (?:his|her|their|my|your|that)"
        r" (?:viewpoint|point of view|perspective|position)\b",
        r" \1 ",
    ),
    (r"\bin the place of\b(?=.*FACE)", " STANDAT "),
    (r"\blet the (?:viewpoint|position) be\b", " STANDAT "),
    (r"\b(?:taking|take) (?=.*ASPLACE)", " "),
    (
        rf"\b(?:my|our|his|her|an?|the) (?:(?!(?:{NAMES})\b)\w+ ){{1,2}}(?=STANDAT)",
        " ",
    ),
    # the robot as a place
    (r"\bstay(?:ing)? (?:right |exactly |SIDEright )?where (?:you|i) (?:are|am)\b", " from ROBOT "),
    (
        rf"\b(?:your|my|the (?:robot|camera) poss)(?: (?:present|current|actual|own))? "
        rf"(?:{SPOT}"
        r"|camera|viewpoint)\b|\bwhere (?:you|i|we) (?:are|am|stand|now stand)"
        r"(?: now| standing| right now| at)*(?= |$)(?! (?:at|by|the)\b)"
        r"|\b(?:yourself|myself)\b|\b(?:the|this) (?:robot|camera)\b",
        " ROBOT ",
    ),
    (r"\b(from|to|of|near|around|nearest|closest|and|until) (?:here|us)\b", r"\1 ROBOT"),
    # what was named before
    (
        r"\bbetween (?:them(?: both)?|both|the two(?: of them)?)(?= |$)(?! (?:objects"
        r"|things|items|the)\b)",
        " BOTH ",
    ),
    (r"\b(HOWMANY|many) of (?:them|those|these)\b", r"\1 "),
    (
        r"\b(?:to|from|of|near|beside|behind|than|at|by) (?:there|it|them|this|that)(?= (?:to"
        r"|and)\b|$)"
        r"|\b(?:to|from|of|near|beside|behind|than|at|by) (?:there|them|that|this) (?=is|are)",
        " REFER ",
    ),
)
