"""The 39 phones of the synthetic corpus: what a formant synthesiser must know of each.

Vowel targets follow the male averages of Peterson & Barney (J. Acoust. Soc. Am. 24, 1952, table II); glides
and consonants follow the values of Klatt (J. Acoust. Soc. Am. 67, 1980, tables II and III), rounded.
Durations are of the order of read American English. The aim is a corpus shaped like speech, not natural
speech.
"""

from __future__ import annotations

from dataclasses import dataclass

Formants = tuple[float, float, float]  # F1, F2, F3 in Hz of an average male speaker


@dataclass(frozen=True)
class Phone:
    """A sound: formant targets where it starts and ends, a mean duration, how it is excited.

    kind: vowel, glide, nasal, fricative, stop, tap, silence. `voice` and `hiss` are amplitudes of the voiced
    source and of frication, 0..1; frication is noise around `peak` Hz, `width` Hz wide. `pull` is how much of
    its neighbours' formants it takes on (coarticulation): 0 none, 1 all.
    """

    kind: str
    start: Formants
    end: Formants
    ms: float
    voice: float = 1.0
    hiss: float = 0.0
    peak: float = 0.0
    width: float = 0.0
    pull: float = 0.1


def _steady(kind: str, f1: float, f2: float, f3: float, ms: float, **rest: float) -> Phone:
    return Phone(kind, (f1, f2, f3), (f1, f2, f3), ms, **rest)


def _vowel(f1: float, f2: float, f3: float, ms: float) -> Phone:
    return _steady("vowel", f1, f2, f3, ms)


def _diphthong(start: Formants, end: Formants) -> Phone:
    return Phone("vowel", start, end, 150)


def _hiss(f: Formants, ms: float, hiss: float, peak: float, width: float, voice: float = 0.0) -> Phone:
    return Phone("fricative", f, f, ms, voice, hiss, peak, width, pull=0.4)


def _stop(f: Formants, ms: float, hiss: float, peak: float, width: float, voice: float = 0.0) -> Phone:
    return Phone("stop", f, f, ms, voice, hiss, peak, width, pull=0.3)


PHONES: dict[str, Phone] = {
    "aa": _vowel(730, 1090, 2440, 115),
    "ae": _vowel(660, 1720, 2410, 130),
    "ah": _vowel(640, 1190, 2390, 75),
    "aw": _diphthong((720, 1250, 2440), (430, 920, 2300)),
    "ay": _diphthong((710, 1150, 2430), (400, 2000, 2600)),
    "b": _stop((200, 1100, 2150), 75, 0.25, 800, 900, voice=0.25),
    "ch": _stop((350, 1800, 2820), 115, 0.75, 3000, 1300),
    "d": _stop((200, 1600, 2600), 75, 0.35, 3700, 1500, voice=0.25),
    "dh": _hiss((270, 1290, 2540), 45, 0.10, 5200, 3500, voice=0.5),
    "dx": _steady("tap", 250, 1650, 2600, 30, voice=0.4, pull=0.4),
    "eh": _vowel(530, 1840, 2480, 90),
    "er": _vowel(490, 1350, 1690, 105),
    "ey": _diphthong((500, 1900, 2500), (330, 2250, 2850)),
    "f": _hiss((340, 1100, 2080), 100, 0.16, 6000, 4500),
    "g": _stop((200, 1990, 2850), 75, 0.35, 2100, 900, voice=0.25),
    "hh": _steady("fricative", 500, 1500, 2500, 65, voice=0.1, hiss=0.0, pull=0.85),
    "ih": _vowel(390, 1990, 2550, 75),
    "iy": _vowel(270, 2290, 3010, 95),
    "jh": _stop((260, 1800, 2820), 95, 0.55, 2900, 1300, voice=0.25),
    "k": _stop((300, 1990, 2850), 95, 0.50, 2200, 900),
    "l": _steady("glide", 310, 1050, 2880, 65, voice=0.7, pull=0.2),
    "m": _steady("nasal", 330, 1070, 2130, 65, voice=0.45, pull=0.15),
    "n": _steady("nasal", 330, 1440, 2470, 60, voice=0.45, pull=0.15),
    "ng": _steady("nasal", 330, 2000, 2750, 65, voice=0.45, pull=0.15),
    "ow": _diphthong((540, 1000, 2400), (400, 800, 2250)),
    "oy": _diphthong((550, 850, 2400), (380, 1950, 2550)),
    "p": _stop((400, 1100, 2150), 95, 0.35, 900, 1000),
    "r": _steady("glide", 310, 1060, 1380, 60, voice=0.7, pull=0.15),
    "s": _hiss((320, 1390, 2530), 110, 0.70, 5800, 1900),
    "sh": _hiss((300, 1840, 2750), 115, 0.75, 3000, 1300),
    "sil": _steady("silence", 500, 1500, 2500, 130, voice=0.0, pull=0.5),
    "t": _stop((400, 1600, 2600), 95, 0.50, 4200, 1700),
    "th": _hiss((320, 1290, 2540), 90, 0.13, 5200, 3500),
    "uh": _vowel(440, 1020, 2240, 70),
    "uw": _vowel(300, 870, 2240, 95),
    "v": _hiss((220, 1100, 2080), 60, 0.10, 6000, 4500, voice=0.5),
    "w": _steady("glide", 290, 610, 2150, 60, voice=0.7, pull=0.15),
    "y": _steady("glide", 260, 2070, 3020, 50, voice=0.7, pull=0.15),
    "z": _hiss((240, 1390, 2530), 80, 0.45, 5800, 1900, voice=0.4),
}

# Syllables: an onset, a nucleus, a coda; the empty string is none. A coda may not end an onset's work: no
# clusters that need an order of their own beyond these.
ONSETS = (
    "",
    "b",
    "ch",
    "d",
    "dh",
    "f",
    "g",
    "hh",
    "jh",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "sh",
    "t",
    "th",
    "v",
    "w",
    "y",
    "z",
    "s t",
    "p r",
    "k l",
    "t r",
    "s p",
    "g r",
    "f l",
)
NUCLEI = ("aa", "ae", "ah", "aw", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw")
CODAS = ("", "", "", "n", "m", "ng", "s", "z", "t", "d", "k", "l", "r", "v", "f", "p", "n d", "s t")
