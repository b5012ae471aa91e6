"""Turns of phrase in questions of free word order, each written as the class that it is of.

Here is how a question is put; `rewordings.py` has whole clauses, `viewpoints.py` the scene, and
from where something is seen, `cues.py` those of the kinds. The order counts: what one writes, a
later one may read.
"""

from __future__ import annotations

from ada3d_ros.asking.free_order.cues import CUES, NAMES
from ada3d_ros.asking.free_order.rewordings import REWORDINGS
from ada3d_ros.asking.free_order.viewpoints import VIEWPOINTS
from ada3d_ros.asking.lexicon import rules

_DOING = (
    "tell|know|say|show|give|name|list|count|ask|report|check|measure|find out|work out|calculate"
    "|estimate|describe|look|confirm|verify|indicate|state|provide|point|identify|help|determine"
    "|specify|return|let|inform|make|do|get|have|quantify|compute"
)

_REQUESTS = rules(
    # what is asked for politely, and tags behind a statement
    (
        rf"^(?:(?!\b(?:{NAMES}|if|when|suppose|imagine|not|no|nobody|never|before|after"
        rf"|yesterday|what"
        r"|which|how|where|who|whether|why|is|are|does)\b|PLACE|LEN).)*?\b(?:know|tell(?: me| "
        r"us)?"
        r"|wonder(?:ing)?|learn|ask(?: you)?|find out|inform me|say(?: me)?"
        r"|if you could name)\b(?= "
        r")(?! about| that)",
        " ",
    ),
    (r"\bif you do not mind\b|\bbe so (?:nice|kind|good)(?: and| as to)?\b", " "),
    (r"(?<=\w) n (?=(?:the|an?|my)\b)", " and "),
    (r"\btakes? (?:to|you|me|us|long)\b", " ONLY "),
    (r"\b(size|measure) up\b(?! to)", r"\1"),
    (
        r"\b(?:do |would |must )?(?:i|you|we|one) (?:have|need) to (?:go|walk|drive|travel"
        r"|move)"
        r"(?: to)? (?:reach|get to|to)\b",
        " to ",
    ),
    (
        r"\b(?:from )?(?:(?:its|the|it is|its own) )?(?:base|bottom|floor|ground|down)(?: up)?"
        r" (?:to|until) (?:(?:its|the|it is) )?top\b|\b(?:from )?top to bottom\b"
        r"|\bfrom (?:the )?(?:floor|ground) up\b(?! to)|\bvertical (?:extent|size|extension)\b",
        " VERTICAL ",
    ),
    (
        r"(?<!on )(?<!on the )\b(?:the )?(?<!on the )(?:top|upper)(?: (?:side|surface|edge"
        r"|end))?(?: of)?\b",
        " TOP ",
    ),
    (
        rf"\b(?:can|could|would|will|may|might|do) (?:you|i|we|somebody|anybody|anyone|someone)"
        rf"(?: please| kindly| just| to)? (?=(?:{_DOING})\b)",
        " ",
    ),
    (
        r"\b(?:i )?(?:was|am) (?:just )?(?:wondering|thinking about|after|trying to \w+"
        r"|curious)\b",
        " ",
    ),
    (r"\bi (?:do not|never) know (?=how|what|where|which)", " "),
    (r"\bto (?:someone|somebody) who can not see (?:it|him)\b", " "),
    (r"\bin (?:a|one) (?:sentence|word|few words)(?: or two)?\b", " "),
    (r"\bif i may ask\b|\bby (?:any )?chance\b|\bif so\b|\bthis moment\b|\bof all\b", " "),
    (
        r"\by ?/ ?n\b|\byes ?(?:/| or )no\b|\b(?:or (?:not|no)|no|correct|true)$"
        r"|\b(?:is|am) (?:that|it|this) (?:right|true|correct|so)\b",
        " YN ",
    ),
    (
        r"\b(?:am|would) i (?:be )?(?:right|correct)\b(?: (?:that|in (?:thinking|saying"
        r"|assuming)))?"
        r"|\b(?:is|are) not (?:it|they)\b|\bis it (?:the case|true|correct)\b|\bcan it be(?: "
        r"said)?\b|\bcould it be\b",
        " YN ",
    ),
    (r"\bthere (?:is|are) not\b(?=.*\b(?:is|are) there$)", " there is "),
    (r"\bdo not (?=see\b.* do you$)", " "),
    (r"\b(?:is|are) not (?=there\b)", " is "),
    (
        r"\b(?:is|are|does|do|has|have|did|would|will|could|can|shall)(?: (?:it|they|there|that"
        r"|you|i))? not"
        r"(?: (?:it|they|there|i|you|he|she))?$|(?<=\w )\b(?:do|is|are|will|would) (?:you|there)$",
        " YN ",
    ),
    (r"\bcan not (?:seem to )?(?:find|see|spot|locate)\b(?= (?:the|my))", " FIND "),
    (
        r"\b(?:looking|searching|search|hunting)(?: (?:since|for) \w+ \w+)?(?: for)(?= the)",
        " FIND ",
    ),
    (r"\bi (?:am )?(?:looking for|search(?:ing)?(?: for)?)\b", " FIND "),
    (r"\b(?:just|only|exactly|precisely) (?:one|a single)\b", " ONLY "),
    (r"\bat least (?:one|an?)\b", " a "),
    (r"\bstarting with (?:the )?(?:closest|nearest)\b", " "),
    (r"^(?:please )?point (?:out|to|at|me to|us to)\b", " FIND "),
    (r"^(?:please )?(?:get|make|need)(?: me)?\b", " "),
)
PHRASES = (*REWORDINGS, *_REQUESTS, *VIEWPOINTS, *CUES)
