"""Which texts does a tokenizer lose bytes of? A built-in set of hard ones."""
# ruff: noqa: RUF001  (letters that look like others are the point)

from knowfuse.surface.cutting import Surface, UnspellableDocument

LONE_SURROGATE = "half of \ud83d an emoji"
HARD_TEXTS = {
    "plain words": "The quick brown fox.",
    "upper case": "Capitals, ALL and Some",
    "a leading space": " leading",
    "leading spaces": "   three leading",
    "trailing spaces": "trailing  ",
    "nothing but spaces": "     ",
    "runs of spaces": "two  three   many                       apart",
    "tabs": "\ta\t\tb\t",
    "newlines": "\n\none\n\n\n\n\n\ntwo\n",
    "CRLF": "one\r\ntwo\r\n\r\nthree\r",
    "control characters": "nul \x00 bell \x07 escape \x1b[0m delete \x7f next line \x85",
    "composed accents": "déjà vu, Ångström, naïve",
    "decomposed accents": "de\u0301ja\u0300 vu, A\u030angstro\u0308m, q\u0307\u0323",
    "compatibility forms": "ﬁne ① Ｆｕｌｌ ﾊﾟ ℌ ½",
    "typographic quotes": "“quoted” ‘so’ ``and so''",
    "invisible characters": "soft\u00adhyphen zero\u200bwidth \ufeffmark no\u00a0break thin\u2009ideographic\u3000",
    "emoji with joiners": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷",
    "CJK": "日本語と中文，한국어。",
    "right to left": "שָׁלוֹם עולם, \u200fمرحبا بالعالم\u200e",
    "Devanagari and Thai": "क्षत्रिय नमस्ते ภาษาไทย",
    "code": "def f(x: int) -> str:\n    return f'{x!r:>10}'  # ok\n\n\nif __name__ == \"__main__\":\n\tf(1)\n",
    "numbers and signs": "3.14159e-10 1,000,000 $5 50% a<b>=c && d||e \\n",
    "text like special tokens": "<s> </s> <unk> <|endoftext|> <bos>[CLS][SEP] a</s>b <0x0A> ##a Ġb",
    "rare code points": "\ufffd \U0010ffff \ue000 \u0378 𝔘𝔫𝔦 𐍈",
}


def unrecovered(surface: Surface) -> dict[str, str]:
    """The hard texts whose bytes this tokenizer's tokens do not spell, by name, with the first difference."""
    reasons = {}
    for name, text in HARD_TEXTS.items():
        try:
            surface.tokenize(text)
        except UnspellableDocument as reason:
            reasons[name] = str(reason)
    return reasons


def refuses_lone_surrogate(surface: Surface) -> bool:
    """Whether half a surrogate pair, which no bytes spell, is refused and not replaced."""
    try:
        surface.tokenize(LONE_SURROGATE)
    except ValueError as error:
        return not isinstance(error, UnspellableDocument)
    return False
