"""Words as linking compares them: of questions, of the names in a schema, and of cell values."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from openarctic.copilot.wording import MONTHS

_WORD = re.compile(r"[^\W_][\w.&\-]*|_|'s", re.UNICODE)
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|(?<!\w)[\'‘`]([^\'’`]+)[\'’`](?!\w)')

# Words that are often cell values but mean something else in a question.
STOP_WORDS = frozenset(
    "the a an of in on at to is are was were be and or not by for with from that which who what where when how many "
    "much all each any every their there than more less most least name names id number list show find give return "
    "me do does did have has it its as no yes male female other type date year day time code city country state first "
    "last one two three".split()
)

# What questions are made of, whatever they are about: nothing in a database explains these, or has to.
FUNCTION_WORDS = STOP_WORDS - frozenset(
    "name names id number male female other type date year day time code city country state".split()
) | frozenset(
    "s t we i you they them he she his her our us my your this these those been being can could would will should may might "
    "shall please tell get display see want know need such some only also both either neither nor but if then so into onto "
    "out up down over under between among above below about after before during since until within without through per via "
    "whose whom why while does doing done having let same different distinct unique total average mean sum count maximum "
    "minimum max min highest lowest largest smallest greatest fewest biggest longest shortest oldest youngest latest "
    "earliest newest top bottom order ordered sort sorted ascending descending alphabetical alphabetically group grouped "
    "greater larger smaller higher lower fewer equal exactly just corresponding respectively ever together along "
    "across used use using uses contain contains containing include includes including belong belongs called named "
    "least most many much very own following as well".split()
)

_ABBREVIATIONS = {
    "acct": "account", "addr": "address", "amt": "amount", "avg": "average", "bal": "balance", "cat": "category", "cd": "code",
    "cnt": "count", "cntry": "country", "ctry": "country", "cust": "customer", "dept": "department", "desc": "description",
    "descr": "description", "dim": "", "disc": "discount", "dob": "date of birth", "dt": "date", "emp": "employee",
    "fct": "", "fname": "first name", "fk": "", "grp": "group", "hist": "history", "img": "image", "inv": "invoice",
    "lname": "last name", "lvl": "level", "max": "maximum", "mgr": "manager", "min": "minimum", "mo": "month", "msg": "message",
    "mth": "month", "nbr": "number", "nm": "name", "num": "number", "ord": "order", "org": "organization", "pct": "percent",
    "perc": "percent", "pmt": "payment", "prc": "price", "prd": "product", "prod": "product", "qty": "quantity",
    "rcpt": "receipt",
    "ref": "reference", "reg": "region", "rev": "revenue", "shp": "shipment", "sp": "salesperson", "st": "status",
    "stat": "status",
    "sts": "status", "tbl": "", "tel": "telephone", "tot": "total", "trx": "transaction", "txn": "transaction", "typ": "type",
    "ts": "time", "usr": "user", "val": "value", "wk": "week", "yr": "year",
}  # fmt: skip

# Words that people say for one another, whatever the database is about.
_GROUPS = [
    group.split()
    for group in (
        "person people human individual", "child kid children", "man men male", "woman women female", "country nation",
        "city town", "shop store", "customer client buyer consumer", "employee staff worker personnel", "manager boss supervisor",
        "supplier vendor", "company firm business corporation", "product item good article", "order purchase",
        "invoice bill", "price cost", "salary wage pay earning", "quantity amount", "phone telephone", "picture photo image",
        "movie film", "song track", "author writer", "teacher instructor lecturer professor", "student pupil",
        "school college university", "course class", "doctor physician", "car vehicle automobile", "plane airplane aircraft",
        "game match", "team club", "region area", "address location place", "begin start", "end finish",
    )
]  # fmt: skip


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """A key by which words are compared, mostly the same for singular and plural. It may be no word ("course" and "courses" are
    "cours", "movie" and "movies" are "movy"): what people read is made by `wording.singular`. Indexes on disk and the bundled
    model's calibration hold what it gives: a change here asks for another `store.FORMAT`, and for the calibration to be fitted
    again."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    if len(word) > 4 and word.endswith("ie"):
        return word[:-2] + "y"
    return word[:-1] if len(word) > 3 and word.endswith(("se", "xe", "che", "she")) else word


_SYNONYMS: dict[str, list[str]] = {}
for _group in _GROUPS:
    for _word in _group:
        _SYNONYMS.setdefault(stem(_word), []).extend(stem(other) for other in _group if other != _word)


def synonyms_of_word(word: str) -> list[str]:
    """What people also say for a word: stems for a stem."""
    return _SYNONYMS.get(word, [])


def name_stems(name: str) -> set[str]:
    """The stems of a name's words, ASCII letters and digits alone, as the bundled model's calibration was fitted with them; names
    are linked by those of `words_of`, which also parts `ORDERDate` and knows other letters."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return {stem(w) for w in re.findall(r"[a-z0-9]+", spaced)}


@lru_cache(maxsize=100_000)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case: `OrderDate`, `order_date` and `ORDER DATE` alike."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(re.findall(r"[^\W_]+", spaced.lower()))


def phrase_of(name: str) -> str:
    """The name in full words: `cust_nm` is "customer name"."""
    return " ".join(word for part in words_of(name) if (word := _ABBREVIATIONS.get(part, part)))


def words_and_full_words(name: str) -> set[str]:
    """The words of a name as they stand and in full: `cust_nm` has cust, nm, customer and name."""
    return {*words_of(name), *phrase_of(name).split()}


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a question: where it begins and ends in it, and whether it begins the question."""

    text: str
    start: int
    end: int
    is_first: bool

    @property
    def is_capital(self) -> bool:
        """Written like a name, where that is not because the question begins here."""
        return self.text[:1].isupper() and not self.is_first


def tokens_of(question: str) -> list[Token]:
    """The words of a question, in order."""
    return [Token(m.group(), m.start(), m.end(), i == 0) for i, m in enumerate(_WORD.finditer(question))]


def content_stems(question: str) -> list[str]:
    """The stems of the words that say what a question is about, in order."""
    words = re.findall(r"[^\W_]+", folded(question))
    return [stem(word) for word in words if word not in FUNCTION_WORDS]


def folded(text: str) -> str:
    """Without case and accents: "São Paulo" is "sao paulo"."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in parts if not unicodedata.combining(c))


def value_words(text: str) -> list[str]:
    """The words of a cell value or of a part of a question: no case, accents, dots (U.S.A.) or apostrophes."""
    return re.findall(r"[^\W_]+", re.sub(r"['’`.]", "", folded(text)))


def plain_key(text: str) -> str:
    """What is left when case, accents, punctuation, spaces and plurals do not matter: "North Carolina" is "northcarolina"."""
    return "".join(map(stem, value_words(text)))


def initials_of(text: str) -> str:
    """The first letters of two to five words, small words left out: "United States of America" is "usa"; else nothing."""
    words = [word for word in re.findall(r"[^\W\d_]+", folded(text)) if word not in ("of", "the", "and", "de", "for", "in")]
    return "".join(word[0] for word in words) if 2 <= len(words) <= 5 else ""


def grams(word: str) -> set[str]:
    """The groups of three letters of a word, its ends marked."""
    marked = f"^^{word}$"
    return {marked[i : i + 3] for i in range(len(marked) - 2)}


def edits(a: str, b: str, limit: int) -> int:
    """How many letters must be changed, added, left out or swapped with their neighbour; `limit` + 1 for any more than that.

    Optimal string alignment: Levenshtein's distance with swaps of neighbours.
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > limit and min(last) > limit:
            return limit + 1
        before = last
    return min(row[-1], limit + 1)


def typo_limit(word: str) -> int:
    """How many letters of a word may be wrong."""
    return 0 if len(word) < 5 else 1 if len(word) < 9 else 2


# Countries that are mostly called by letters: their adjective, and the ways to write them.
_COUNTRIES = {
    "american": ("usa", "united states", "us", "united states of america"),
    "british": ("uk", "united kingdom", "great britain"),
    "emirati": ("uae", "united arab emirates"),
}


def places_of(word: str) -> Iterator[str]:
    """What an adjective of a place may come from, in lower case: Asian, European, Brazilian, Italian, Chilean, American."""
    low = folded(word)
    yield from _COUNTRIES.get(low, ())
    if low.endswith("an") and len(low) > 4:
        yield low[:-1]
        yield low[:-2]
        if low.endswith("ian"):
            yield low[:-3]
            yield low[:-3] + "y"
        if low.endswith("ean"):
            yield low[:-2]
            yield low[:-3]


_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_STATES = (
    "al alabama ak alaska az arizona ar arkansas ca california co colorado ct connecticut de delaware fl florida ga georgia "
    "hi hawaii id idaho il illinois in indiana ia iowa ks kansas ky kentucky la louisiana me maine md maryland "
    "ma massachusetts mi michigan mn minnesota ms mississippi mo missouri mt montana ne nebraska nv nevada nh newhampshire "
    "nj newjersey nm newmexico ny newyork nc northcarolina nd northdakota oh ohio ok oklahoma or oregon pa pennsylvania "
    "ri rhodeisland sc southcarolina sd southdakota tn tennessee tx texas ut utah vt vermont va virginia wa washington "
    "wv westvirginia wi wisconsin wy wyoming"
).split()  # fmt: skip


def _short_forms() -> dict[str, tuple[str, ...]]:
    forms: dict[str, list[str]] = {}
    pairs = [*((name[:3], name) for name in (*MONTHS, *_DAYS)), *zip(_STATES[::2], _STATES[1::2], strict=True)]
    for short, full in pairs:
        if short != full:
            forms.setdefault(short, []).append(stem(full))
            forms.setdefault(stem(full), []).append(short)
    for names in _COUNTRIES.values():
        for one, other in itertools.permutations(map(plain_key, names), 2):
            forms.setdefault(one, []).append(other)
    return {form: tuple(others) for form, others in forms.items()}


# Months, days of the week, American states and some countries: each plain key with the other ways to write it.
SHORT_FORMS = _short_forms()
