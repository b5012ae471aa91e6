"""Turns of phrase in questions of free word order, each written as the class that it is of.

Here is how a question is put; `viewpoints.py` has the scene, and from where something is seen,
`cues.py` those of the kinds. The order counts: what one writes, a later one may read.
"""

from __future__ import annotations

from ada3d_ros.asking.free_order.cues import COLOR, CUES, NAMES
from ada3d_ros.asking.free_order.viewpoints import VIEWPOINTS
from ada3d_ros.asking.lexicon import rules

_DOING = (
    "tell|know|say|show|give|name|list|count|ask|report|check|measure|find out|work out|calculate"
    "|estimate|describe|look|confirm|verify|indicate|state|provide|point|identify|help|determine"
    "|specify|return|let|inform|make|do|get|have|quantify|compute"
)

_REQUESTS = rules(
    (r"\bca not\b", "can not"),
    # for what somebody wants to know it
    (
        rf"^for (?:the|an?|my|our) (?!(?:{COLOR}|{NAMES}|robot|person|viewer|observer|agent"
        rf"|visitor)\b)"
        r"\w+(?: sheet| truth| list)?\b|\bfor moving house\b",
        " ",
    ),
    (
        rf"(?<=\w) (?:for (?:the|an?|my|our) (?!(?:{COLOR}|{NAMES}|room|robot|most"
        rf"|last)\b)\w+"
        r"|before \w+ing it|to park (?:the|an?|my) \w+)$",
        " ",
    ),
    (r"\bwrite one sentence that\b|\bin(?: a| one)? sentence\b", " "),
    (r"\bwhether or not\b", "whether"),
    (
        r"^i would (?:very much )?(?:appreciate it|be (?:very )?\w+|love it)(?: very much)? "
        r"if you"
        r" (?:could|would)(?: please)?\b|^i (?:do not|can not|never) (?:remember|recall)\b",
        " ",
    ),
    (r"\b(?:around|about|round) here\b", " HERE "),
    (r"\band which(?: ones?)?(?: are they)?$", " LIST "),
    (r"\bany point of\b|\b(?:stretched|sandwiched)\b", " "),
    (
        r"\b((?:what|which|how many)(?: \w+)?) (?:does|do|is|are) (.+?) (?:carry|carrying|hold"
        r"|holding"
        r"|bear|bearing|support|supporting)(?: up| on top)?$",
        r"\1 on \2",
    ),
    (r"\b(?:at|by|to) the side of\b", "beside"),
    (r"\bat (?:it is|its|his|her) side\b", " "),
    (r"\bis what i am (?:facing|looking at)\b", " FACED "),
    (
        r"\b(?:do|would|must|should) i (?:have to |need to )?(?:go|look)(?: to (?:pick up|find"
        r"|get|see)| for)?"
        r"(?= (?:the|my)\b)(?=.*$)(?<!way would i look)",
        " is ",
    ),
    (r"\bcaption (?:for|of)\b", " DESCRIBE "),
    (r"\bhow widely\b", "how"),
    (r"\bmeasure across\b", "measure"),
    (r"\bcolou?r does (.+) come in$", r"color is \1"),
    (
        r"^(?:if i )?(?:crouch (?:down )?and )?look (under|beneath|behind) (.+?) what (?:will"
        r"|would|do) i"
        r" (?:find|see)$",
        r"what is \1 \2",
    ),
    (r"\b(?:rises?|stands?|reaches) (?:the )?(?=highest|tallest)", " is "),
    (r"\b(?:i|you|one) view(?:s|ing)?(?= the)|\bwatch(?:es|ing)?(?= the)", " facing "),
    (r"\bleft (?=between)", " placed "),
    (r"\btrue or false\b", " YN "),
    (r"\bshould i (?:write down|enter|note|put down)\b|\bfound to have\b", " "),
    (r"\bdid (?:the|your) (?:scan|camera|robot|sensors?) (?:pick up|detect|find|see)\b", " see "),
    (r"\bdid (?:anything|something) end up\b", " is anything "),
    (r"\bto one another\b|\bfrom one another\b|\bfrom each other\b|\bto each other\b", " apart "),
    (r"\bhow much (?:space|room|distance|of a gap) (?=.*\b(?:between|from|until)\b)", " SPACE "),
    (r"\bin the (?:(?:immediate|direct|close) )?(?:vicinity|neighbou?rhood) of\b", " near "),
    (r"\bimmediate neighbou?r\b", "nearest neighbour"),
    (
        r"\bnearer than any(?: other)?\b|\bcloser than (?:any(?: other)?|the rest|all "
        r"others)\b"
        r"|\bmore (?:near|close) (?=.*than all others)|\b(?:shortest|smallest) way\b",
        " NEAREST ",
    ),
    (r"\bthan all others\b", " "),
    (r"\b(?:can you )?add up\b|\bhow often does an?\b", " HOWMANY "),
    (r"\bturn out to be\b", "is"),
    (r"\b(?:come|comes|turn|turns|stands?|rises?) (?=highest|tallest|closest|nearest)", " is "),
    (r"\b(?:come|turn|turns) up (?=HERE|in|around|anywhere|somewhere|$)", " present "),
    (r"\bi come across\b|\bwould i (?:find|see|meet)\b", " is there "),
    (r"\bbulkiest\b", "largest"),
    (r"\b(?:from )?head to foot\b", "length"),
    (r"\bvertically\b", " VERTICAL "),
    (r"\bnot taken\b", "free"),
    (r"\bstraight line distance\b", "distance"),
    (r"\b(?:is|are) (?:it|they) there$|\bis it on there$|\bor is (?:some|any)thing there$", " YN "),
    (r"\bi (?:placed|left|put) an? (.+) (on|under|in) (.+) YN$", r"is the \1 \2 \3 YN"),
    (r"^is it (?:free|empty) under\b", "is there anything under"),
    (r"\bplease look (?=under|beneath|on|behind)", " what is "),
    (r"\band (?:tell me|say) what (?:you (?:find|see)|is) there$|\band what is that$", " "),
    (r"^whose\b", " ONLY "),
    (r"^(?:clear|empty|free) (?:the|this|that|up)\b", " ONLY "),
    (
        r"\b(?:can|could|may|might|would|should) (?:be|i|you|we|one) (?:put|place|placed|set"
        r"|kept|moved|stand)\b"
        r"(?!.*\b(?:floor|ground|down)\b)|\b(?:do|would|should) (?:you|i|we) (?:want|like"
        r"|prefer)\b(?! (?:me|to))",
        " ONLY ",
    ),
    (rf"\b(\w+) (?:of|in|with) (?:the |an? )?({COLOR}) colou?r\b", r"\2 \1"),
    (r"\bfind out(?: for me)?\b", " "),
    (r"\bform (?=the|me|you|an?\b)", "from "),
    (
        r"\b(?:would you )?mind telling(?: me| us)?\b|^i (?:must|need to|have to|should like "
        r"to) know\b",
        " ",
    ),
    (r"\bmy \w+ (?:wants|would like|needs|asks) (?:to know|me)?\b|\bi should like\b", " "),
    (r"\bmy (?:wife|husband|son|daughter|friend|colleague|boss|mother|father)\b", " a person "),
    (r"\bi (?:would be|am|was) (?:just )?(?:curious|interested)(?: about| in| to know)?\b", " "),
    (r"\bi can not see (?=what|how|where|which)|\bat all$|\bx y (?:and )?z (?=coordinates)", " "),
    (r"\bthere is no (.+?)(?: or)? is there$", r"is there a \1"),
    (r"\bdid (?:it|he|she) end up$|\bdo they come to$", " "),
    (
        r"\bdid (?:they|you|somebody|someone|anyone|anybody|people) (?:paint|put|leave|place"
        r"|set)\b",
        " is ",
    ),
    (r"\b(?:away|off) (.+) by how much$", r"FAR \1"),
    (r"^would you say\b", " YN "),
    (
        r"^(?:please |just )?(?:pick(?: out)?|find|spot|show)(?: me| us)?(?= (?:the|where)\b)",
        " FIND ",
    ),
    (r"\bthe looks of\b", " LIKE "),
    (r"\bhow (?:many|much) UNIT\d?\b|\b(?:the )?number of UNIT\b", " HOW UNIT "),
    (r"\bUNIT\d\b", " UNIT "),
    (r"\b(?:euclidean|spatial|physical(?:ly)?|expressed|taken|overall|i mean)\b", " "),
    (
        r"\bdescrib(?:e|ed|es)\b|\b(?:tell|say)(?: me| us)?(?: a bit| something| a little)"
        r"?(?: more)? about\b"
        r"|\b(?:some|a few) words about\b|\bbrief me on\b|\bhow looks?\b(?= the)",
        " DESCRIBE ",
    ),
    (
        r"^(?:please |now |robot |so )*(?:put|move|place|set|bring|take|push|hang|lay)"
        r" (?:the|an?|my|this|that|it) (?!(?:distance|measurements?|points?|midpoints?|cent\w+)\b)"
        r"(?!.*\bas (?:my|the|your)\b)|\bwould i be able to see\b|\bcan i see from\b"
        r"|\bhow long (?:has|have|had|did|will|ago|until|before|does it take)\b(?! .*\bgot\b)"
        r"|\b(?:can|could|would|might|should) (?:all )?(?:the|an?|my) (?:\w+ )+be"
        r" (?:put|placed|moved|set|kept)\b|\b(?:am|are) (?:i|you|we) free\b",
        " ONLY ",
    ),
    (r"\bmy \w+ (?:is|poss) asking(?: about| me)?\b|^look up\b", " "),
    (r"\bwhere (?:the|your) camera is\b|\bon record$", " "),
    (r"^looking (?:around|about|near) (the .+?) (?=(?:which|what)\b)", r"\1 "),
    (r"\b(?:fall|falls|is|are|lie|lies) inside$|\bdown there$", "there"),
    (r"\bform (?=where)", "from "),
    (r"\bin the space (?:that )?separat(?:ing|es)\b", "between"),
    (r"\bhave you (?:come across|met|run into)\b", "is there"),
    # what others say, and is asked
    (
        r"^(?:my \w+|mum\w*|dad\w*|somebody|someone|they|i (?:was|am|have been)|he|she|people)"
        r" (?:says?|said|thinks?|believes?|claims?|told)(?: me)?(?: that)? (.+?)(?: and)?"
        r" (?:is (?:he|she|it|that|this) (?:right|true|correct|so)|true|right|correct"
        r"|do we|is there)$",
        r"\1 YN",
    ),
    (r"^i bet you can not (?:say|tell|guess)(?: me)?\b|^sorry for my english\b", " "),
    (r"^tell (?:the|my|our) \w+ (?=how|what|where|which)|\bwould you mind \w+ing\b", " "),
    (r"\b(tell|say|show|give|explain|describe) to (me|us)\b", r"\1 \2"),
    (r"((?:^describe|DESCRIBE) .+) (?:to|for) (?:me|us)$", r"\1"),
    (
        r"^nothing (?:here |else )?(?:is|stands) (?:nearer|closer) to (.+) than which \w+$",
        r"what is nearest to \1",
    ),
    (r"\blook (?=(?:which|what|how|if|whether|where)\b)", " "),
    (r"\bwas (the .+) painted$", r"is \1 painted"),
    (r"\bmore of an? (?=\w+$)", " "),
    (
        r"^look (under|underneath|below|beneath|behind) (.+) and (?:say"
        r"|tell me) what you (?:find|see)$",
        r"what is \1 \2",
    ),
    (
        r"^i am looking for (an? .+?) is (?:one|it|there one|there) (?:here|around|there|present)$"
        r"|\bwill i find (an? .+?)(?: if .*)?$",
        r"is there \1\2",
    ),
    (r"\bthere would not happen to be\b", "is there"),
    (r"\bwhat would (?:a|the) (?:ruler|tape(?: measure)?) (?:show|say|read)\b", "distance"),
    (r"\b(?:closer|nearer) than (?:everything|anything|all) else\b", "nearest"),
    (r"\b(?:would|do) i (?:reach|get to|come to|meet) first\b", "is nearest"),
    (r"\bin(?:side)? a circle (?:with a|of) radius of (?=LEN)", "within "),
    (r"^i am looking for (an? .+?) does one exist\b", r"is there \1"),
    (r"^i can not (?:make out|tell|see|say) (?=whether|if|what|how)", " "),
    (r"\beverything (?:there is |that is )?here\b", "everything HERE"),
    (r"\bthe places (?=PLACE)", " "),
    (r"\b(?:at|for) my (?:position|place|viewpoint)\b(?=.*\b(?:ahead|facing)\b)", " ASPLACE "),
    (r"\bmy back (?:is )?(?:turned )?(?:against|to)\b", " STANDAT "),
    (r"\bfrom one (?!side|end)\w+ to the other\b", "length"),
    (
        r"\bhow (?:much|far) (?:does|do) (.+?) (?:rise|stick up|reach|extend|stand up)"
        r" (?:above|from|off|over) (?:the )?(?:floor|ground)$",
        r"how tall is \1",
    ),
    (r"^(which|what) (\w+) is (?:nearer|closer) to (?!.*\b(?:than|or)\b)", r"\1 \2 is nearest to "),
    (r"\ball told\b|\bwhat was it$|^i (?:forgot|have forgotten)\b", " "),
    (
        r"\bwhere (?:could|can) i (?:stand|put something)(?: down)? (?=next|beside|near|by|close)",
        "where is free floor ",
    ),
    (r"\bdid (?:it|he|she) go$", " "),
    (r"^what (?:sort|kind)s? of (?:things|objects|items)\b", "list what things"),
    (
        r"^((?:which|what)(?: (?!distance|gap|space|length"
        r"|stretch)\w+)?) separates (the .+?) (?:from|and) (the .+)$",
        r"\1 is between \2 and \3",
    ),
    (
        r"\bdid you (?:map|see|find|detect|record|count|log|register|spot|notice)\b"
        r"|\b(?:you|we) (?:mapped|recorded|counted|logged|registered|noticed)\b",
        " see ",
    ),
    (
        r"\bdid (any|some)thing (?:get|roll|fall|go|land|end up) (?=under|below|beneath"
        r"|on|between)",
        r"is \1thing ",
    ),
    (r"\b(?:stretch|span) separating (.+?) from\b", r"distance between \1 and"),
    (r"\bhow long is the (?:way|path|walk|route)\b", "how far is it"),
    (r"\bwhat is in (?:the|my|its) way$", "what is between"),
    (
        r"\bof it (?=would i need)|\bgive me the (?:number|figure|value)$|\bi only (?:need"
        r"|want)\b",
        " ",
    ),
    (
        r"^nothing (?:here |else )?(?:is|poss|stands) (?:nearer"
        r"|closer) to (.+) than (?:which \w+|what)$",
        r"what is nearest to \1",
    ),
    (r"\b(?:going by distance )?(which|what)( \w+)? comes first from\b", r"\1\2 is nearest to"),
    (r"\b(?:draw )?a circle of (?=LEN)", "within "),
    (r"\b(?:fall|falls|lie|lies|is|are) in(?:side)? it$", "there"),
    (r"\bhow many times does an? (.+?) (?:show up|appear|occur|come up)\b", r"how many \1"),
    (r"\bi was (?=standing|at|sitting|facing)", "i am "),
    (
        r"^(?:have a look|take a look|look) (under|underneath|below|beneath|behind) (.+?)(?: and)?"
        r" (?:tell me |say |report )?what (?:is|you (?:see|find)|have you got|do you (?:see|find))"
        r"(?: there)?$",
        r"what is \1 \2",
    ),
    (
        r"\bwith (.+) on one (?:end|side) and (.+) on the other(?: end| side)?\b",
        r"from \1 to \2",
    ),
    (r"^how is the floor\b", "is the floor"),
    (
        r"^i can not find (an? .+?) (?:does one exist|is there one|is one here)$",
        r"is there \1",
    ),
    (r"\b(?:the )?xyz(?: coordinates?| position)? of\b", " WHERE "),
    (r"\bdescribe (?=the colou?r of)", "what is "),
    (
        r"\bwhere i (?:could|can) put (?:\w+ )?\w+$|^i can not quite make (?:it|that) out\b"
        r"|\bare we talking about\b|\bof the lot\b|\bsupposed to be\b",
        " ",
    ),
    (r"\bby how much (is|are) (.+) (?:away|off) from\b", r"how far \1 \2 from"),
    (r"\blook for (?=free|empty|clear|open|some|any)", "find "),
    (r"^i am looking for (an? .+?) (?:is|are) there (?:one|any)\b", r"is there \1"),
    (r"\b(?:name|list|show)(?: me)? them$", " LIST "),
    (r"\b(is|are) (?:still )?left (?=in (?:the|this)|here\b|over\b)", r"\1 "),
    (r"\bhow long a way\b", "how far"),
    (r"\bnot taken(?: up)?(?: by anything)?\b", "free"),
    (r"\bnothing else$|\bany idea\b|\bi am (?:asking|talking) about\b", " "),
    (r"\b(?:has|have) (something|anything) ended up\b", r"is \1"),
    (r"\bdid (.+) end up$", r"is \1"),
    (r"\binbetween\b", "in between"),
    (r"\bthat (the .+) carries(?: on (?:its|it is) top)?$", r"on \1"),
    (r"\bthe points? (?=PLACE)|\bdraw a circle with a\b", " "),
    (r"\bwhat (?:is|stands|lies) (?:inside|in) it$", "what is there"),
    (
        r"\b(?:closer|nearer) to (.+) than any(?:thing)?(?: else| other \w+)?(?: does| is)?$",
        r"nearest to \1",
    ),
    (r"^look (under|below|beneath|behind) (.+) is (?:any|some)thing there$", r"is anything \1 \2"),
    (r"\ba long way\b", "far"),
    (r"\bpieces? of (string|rope|tape)\b", r"\1"),
    (r"\b(?:has|have) (?:this|the) room$", "are HERE"),
    (r"\bhave (?:its|it is) place\b", "is"),
    (
        r"^i would (?:like|love) to hear(?: a bit| something)? about\b(?! the (?:colou?r|size))",
        " DESCRIBE ",
    ),
    (r"^what do you know about (?=the|PLACE)", " DESCRIBE "),
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
)
PHRASES = (*_REQUESTS, *VIEWPOINTS, *CUES)
