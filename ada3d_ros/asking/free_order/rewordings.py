"""Whole sentences and clauses of questions in free word order, written as shorter ones that say the
same; `phrases.py` applies them first.
"""

from __future__ import annotations

from ada3d_ros.asking.free_order.cues import COLOR, NAMES
from ada3d_ros.asking.lexicon import rules

REWORDINGS = rules(
    (r"\bca not\b", "can not"),
    (r"\bdescribe (?=the colou?r of)", "what is "),
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
        r"\b((?:what|which|how many)(?: \w+)?) (?:does|do|is|are) (?!the room"
        r"|this room)(.+?) (?:carry|carrying|hold"
        r"|holding"
        r"|bear|bearing|support|supporting)(?: up| on top| on (?:its|it is) top)?$",
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
    (r"\bvertically\b", " VERTICAL "),
    (r"\bnot taken(?: up)?(?: by anything)?\b", "free"),
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
        r"|\bhow long (?:has|have|had|did|will|ago|until|before|does it take)\b"
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
    (
        r"^(?:i|we) (?:just |only |also )?(?:need|want|would like)(?: to (?:know|have|get"
        r"|see))?\b(?! to hear)"
        r"|(?<!do )(?<!would )\bi (?:need|want)\b|^get(?: me)?\b|^make(?: me)?\b",
        " ",
    ),
    (r"\bdo you get (the .+?) (?=to|on|at|in front|behind)", r"is \1 "),
    (r"\b(?:do|would|will) (?:i|you|we) get(?: for)?\b|\bwould i need(?: to)?\b", " "),
    (r"\bto get from\b", "from"),
    (r"\bmay i assume(?: that)?\b", " YN "),
    (r"\bthere might be\b", "there is"),
    (r"\bmight that be\b", "is that"),
    (r"\bmake out\b", "see"),
    (r"\bor other stuff\b", " "),
    (r"\bfinds? (?:itself|themselves)\b", "is"),
    (
        r"\bone from the other\b|\b(?:of|from one to) (?:each other|one another|the other)\b"
        r"|\bof both objects\b|\bthe two objects\b",
        "apart",
    ),
    (r"\bdo you make it\b", " "),
    (r"\b(?:the )?(?:middle|center|centre)s? of each(?: object| one)?\b", "centers"),
    (
        rf"\b(?:can|could|may) i (?:get|have|take|use|borrow) (?:the|an?|my|some) (?:{COLOR}"
        rf"|{NAMES})\b",
        " ONLY ",
    ),
    (r"^(?:please )?point (?:out|to|at|me to|us to)\b", "find"),
    (
        r"\bhow far (?:is|are|does) (.+) (?:off|above|over|up from"
        r"|from) (?:the )?(?:floor|ground)$",
        r"how high is \1",
    ),
    (
        rf"\b(?:can|could|would|will) you (?:please )?(?:paint|put|move|bring|fetch|get"
        rf"|buy|turn|push"
        rf"|table|set|lay|hang) (?:me )?(?:the |an? |my |some )?(?:\w+ )?(?:{NAMES}|question)\b"
        r"|\b(?:do|shall|should|can|could|may|must) (?:i|we) (?:put|place|set|stand)\b"
        r"(?!.*\b(?:floor|ground)\b)|\bhow far (?:have|has|can|could|did|will) (?:you|i|we|one)\b"
        r"(?! (?:got )?to\b)|^(?:what|which \w+) (?:could|may|might|can) be\b|^have you measured\b"
        r"|\bhow long (?:does|do|did) (?:the|it|that|this) .*\b(?:stand|last|stay|take|lie)\b",
        " ONLY ",
    ),
    (r"\b(?:my \w+|a person) (?:is|poss|was) (?:asking|wondering)\b|\bthe two points\b", " "),
    (r"(?<!between )\b(?:those|these|the) two$", "they"),
    (r"\byou two$", "you"),
    (
        r"\bhow much (?:space|room|place) (?:does|do) (.+?) (?:take up|occupy|need|require)\b",
        r"what size is \1",
    ),
    (r"\bto (?:its|the|it is) highest point\b", "to the top"),
    (r"\bon one (?:side|end) and (.+?) on the other(?: (?:side|end))?\b", r"and \1"),
    (r"\bon (?:the|a) (?:straight )?line\b", "in a straight line"),
    (
        r"\bto (?:put|set|park|place|leave) (?:my|the|an?) \w+(?: down)?\b"
        r"(?=.*\b(?:free|empty|clear|bare|unoccupied)\b)",
        " ",
    ),
    (r"\byou would not happen to have\b", "is there"),
    (
        r"\bis the space (under|beneath|on|between) (.+?) (?:occupied|taken)(?: by anything)?$",
        r"is anything \1 \2",
    ),
    (
        r"^(the .+?) (is|are) not (?!more|further|farther|over|less|closer)(.+?) (?:is"
        r"|are) (?:it|they)$",
        r"\2 \1 \3",
    ),
    (r"\bmeasure the (?:space|room|gap) (?=from|between)", "distance "),
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
)
