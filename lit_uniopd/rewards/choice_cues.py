"""The phrases by which responses announce, deny or merely mention a choice, in the languages that models answer in."""

import re

_IS = (
    r"(?:is|are|was|would\s+be|must\s+be|should\s+be|has\s+to\s+be|will\s+be)\b(?!['’]t|n['’]t)|(?:ist|lautet|wäre|es|sería|est|serait|é|è|"
    r"adalah|ialah|là|هي|هو|to|jest)(?!\w)"
)
_NOUN = (
    r"answers?|antwort|lösung|respuesta|resposta|réponse|risposta|jawaban(?:nya)?|odpowiedź|antwoord|cevap|đáp\s+án|ответ"
    r"|(?:correct|right|best)\s+(?:option|choice|letter|one)s?|(?:my|final|the)\s+(?:choice|selection|pick)"
    r"|(?:option|choice|réponse|opción|alternativa|option)\s+(?:correcta|correta|correcte)|la\s+correcta|الإجابة|उत्तर"
)
_LABEL = (
    r"conclusion|solution|result|choice|option|letter|selected\s+(?:option|answer)|selection|prediction|verdict|conclusión"
    r"|conclusão|fazit|schluss|lösung|solución|opción"
)
ANNOUNCED = re.compile(
    rf"(?<![^\W_])(?:{_NOUN})(?![^\W\d_])(?:\s+(?:correcta|correta|correcte|corretta|finale?|richtige|doğru|yang\s+benar|đúng|الصحيحة))?"
    r"(?:\s+(?:to|for)\s+(?:this|the)\s+\w{1,20})?[*_]{0,3}\s{0,4}"
    rf"(?:{_IS}|[:=]|→|->|=>|—|–|(?=(?:no|não|non|n['’])\s?(?:es|é|è)))"
    rf"|(?<![^\W_])(?:{_LABEL})[*_]{{0,3}}\s{{0,3}}[:=]"
    r"|####"
    r"|(?:(?<!不)(?<!非))(?:正确)?(?:答案|选项)\s{0,3}(?:应该)?(?:应?[是为选]|[:：])?(?=[^\n]{0,12}[A-Z])"
    r"|(?:正解|答え|解答|回答)\s{0,3}(?:は|[:：])?|(?:정답|답)\s{0,3}(?:은|는|[:：])|सही\s+उत्तर",
    re.I,
)
"""Phrases that announce the answer."""
ONE_OF_ALL = re.compile(r"\b(?:each|every|any|another|per)\s{1,2}$", re.I)
"""Right before a cue: ``each option: A) ...`` announces nothing."""
WOULD = re.compile(r"\bwould\b", re.I)
IT_IS = re.compile(r"\b(?:it|this|that)\s(?:is|must\s+be)\s(?:option\s|choice\s)?[(\[*_]{0,3}([A-Z])(?![A-Za-z0-9'’])")
CHOSEN = re.compile(
    r"\b(?:choose|chose|select|pick|picked|selected|go\s+with|opt\s+for|going\s+with|went\s+with|wähle|nehme|elijo|escojo|escolho|choisis|scelgo|"
    r"memilih|выбираю)\b|(?<![不别非勿])(?<!不能)(?<!不应)(?<!不会)(?<!不可)(?<!排除)(?:应|故|所以|因此)?选(?!项)(?:择)?(?:项)?\s{0,2}[:：]?",
    re.I,
)
"""Phrases that choose; weaker than announcing, since points and axes are chosen too."""
CONCLUSION = re.compile(
    r"\b(?:so|therefore|thus|hence|conclude(?:\s+that)?|i\s+think|i\s+believe|i['’]?d\s+say|i\s+would\s+say|probably|definitely"
    r"|clearly|obviously|my\s+guess\s+is|por\s+lo\s+tanto|portanto|donc|also|daher|quindi)\b|因此|所以|[∴→]|=>",
    re.I,
)
MENTIONED = re.compile(r"\b(?:option|choice|opción|opção|choix|opzione)\s+(?=[(\[*]{0,3}[A-Z])|选项\s?", re.I)
ITSELF = re.compile(
    r"(?:^|[.!?。\n,:;]\s*)(?:it|this|that|es|das)(?:['’]?s|\s+(?:is|must\s+be|should\s+be|has\s+to\s+be|would\s+be|ist))\s+"
    r"(?:clearly\s+|definitely\s+)?(?:option\s+|choice\s+)?[(\[]?([A-Z])[)\]]?\s*(?=[.!。\n]|$)",
    re.I,
)
"""``It is B.``, a sentence of its own."""
BEST = re.compile(
    r"(?<![A-Za-z0-9])[(\[]?([A-Z])[)\]]?\s{1,3}(?:is|ist|es|est|é)\s{1,3}(?:(?:clearly|definitely|indeed)\s{1,3})?"
    r"(?:(?:the|la|le|die|a)\s{1,3})?(?:(?:correct|right|best|only\s+correct|final)\s{1,3}(?:answer|option|choice|one)|answer"
    r"|respuesta(?:\s+correcta)?|richtige\s+antwort|bonne\s+réponse|resposta(?:\s+correta)?)\b"
    r"|([A-Z])\s?(?:选项)?(?:是|为)\s?(?:正确)?(?:答案|选项)"
)
"""``B is the answer``."""
TRUE = re.compile(
    r"(?<![A-Za-z0-9])[(\[]?([A-Z])[)\]]?\s{1,3}(?:is|ist|es|est)\s{1,3}(?:(?:clearly|definitely|indeed)\s{1,3})?"
    r"(?:correct|right|best|true|richtig|correcta?|the\s+(?:correct|right|best|true))\b"
    r"|([A-Z])\s?(?:选项)?(?:是)?\s?(?:正确|对)(?!吗)"
)
"""``B is correct``: a verdict on a statement, if it does not say more."""
NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|can't|isn't|isnt|aren't|wasn't|except|nicht|kein|weder|no\s+(?:es|puede|creo)|tampoco|n['’]est"
    r"|pas|não|nunca|bukan|нет|не|không|non)\b|n['’]t\b|不是|不选|并非|不会|不可能|不为|不应|ではない|아니",
    re.I,
)
CONTRAST = re.compile(r"\b(?:but|rather|instead|sondern|sino|mais|mas|bensì)\b|而是|而应|,\s*it\s+is\b", re.I)
HYPOTHESIS = re.compile(
    r"\b(?:if|suppose|supposing|assum(?:e|ing)|imagine|unless|whether|why|were|wenn|falls|si|se"
    r"|(?:thought|believed|assumed|expected|said|say|says|think|claim(?:s|ed)?|argue[sd]?)(?<!i\sthink)(?<!i['’]d\ssay)"
    r"|mistaken(?:ly)?|wrongly|tempting|tempted)"
    r"(?:\s+(?:that|we|you|one|i|it|to|dass|que|say|were|had|think|a\s+student))*\s*(?:the\s+|die\s+|la\s+)?"
    r"(?:correct\s+|final\s+|right\s+)?$|(?:如果|假如|假设|若|要是)[^，。,]{0,6}$",
    re.I,
)
"""Right before a cue: the answer of a hypothesis, or somebody else's."""
OTHERS = re.compile(r"\b(?:some(?:one)?|people|students?|many|others|one|you|they|he|she)\b[^.!?\n]{0,24}$", re.I)
CONDITION = re.compile(r"\s{0,3},?\s{0,3}(?:only\s+|but\s+only\s+)?(?:if|unless|were|had|wenn|falls|si)\b", re.I)
"""Right behind a letter: its verdict depends on something."""
REJECTED_BEFORE = re.compile(
    r"\b(?:unlike|than|not|instead\s+of|reject(?:s|ed|ing)?|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\s+out|exclud(?:e|es|ed|ing)"
    r"|except|versus|vs|over|against|neither|nor|discard(?:ed|ing)?|in\s+contrast\s+to|compared\s+(?:to|with)|no|statt|anstatt|en\s+lugar\s+de"
    r"|plutôt\s+que|consider(?:s|ed|ing)?|check(?:s|ed|ing)?|if|for)\.?\s*(?:the\s+)?$|(?:排除|不选|而非|而不是|不是)\s*$",
    re.I,
)
REJECTED_BEHIND = re.compile(
    r"[)\]]?\s{0,3}(?:(?:is|are|was|can|could|does|do|has|must|would)\s{1,3})?(?:also\s{1,3}|clearly\s{1,3}|therefore\s{1,3})?"
    r"(?:not|cannot|isn['’]t|doesn['’]t|can['’]t|wrong|incorrect|false|eliminated|excluded|ruled|too|impossible|out\b|fails|falsch|incorrecta?"
    r"|descartada)\b|\s?(?:选项)?(?:不|错|是错|被排除)",
    re.I,
)
FIGURE = re.compile(
    r"(?:\b(?:points?|lines?|segments?|angles?|vertex|vertices|triangles?|circles?|planes?|sets?|events?|matrix|variables?|edges?|rays?|nodes?"
    r"|corners?|sides?|punto|punkt|strecke)|[∠△▲⊙])\s?$",
    re.I,
)
"""Right before a letter: it names a part of a figure."""
AFTER_LETTER = re.compile(
    r"[ \t]+(?:because|since|as|is|for|which|with|and|or|but|due|given|based|in|from|that|if|by|would|will|rather|over"
    r"|instead|not|than|unlike|while|though|although|so|where|when|here|again|on|after|at|to|only|matches|fits|shows"
    r"|gives|has|must|cannot|can|option|choice|porque|ya\s+que|pues|weil|denn|ist|und|oder|nicht|parce|puisque|est|et"
    r"|ou|pois|perché|karena|adalah)\b",
    re.I,
)
"""Right behind a capital A or I: it is a letter and no word. French ``car`` is missing: "the answer is A car"."""
CLAUSE = re.compile(
    r"[)\]]?[ \t]+(?:is|was|are|isn|does|did|has|had|would|will|can|cannot|could|shows?|fails?|gives?|seems?|looks?"
    r"|contradicts?|says|describes?|represents?|ist|es|est|being|were)\b",
    re.I,
)
"""Right behind a listed letter: a new clause begins with it."""
USED_AS = re.compile(r"[)\]]?\s{1,3}(?:as|to\s+be|on|such|at|=)\s", re.I)
"""``choose A as the origin`` chooses no option."""
SENTENCE_END = re.compile(r"[.!?。]\s|\n")
