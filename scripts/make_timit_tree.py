"""Write the generated corpus as a TIMIT tree: TRAIN|TEST/DRn/SPEAKER/SENTENCE.WAV (NIST SPHERE), .PHN and
.TXT.

    python scripts/make_timit_tree.py out=DIR [speakers=24] [test=8] [sentences=10] [seed=0]

`data=timit data.root=DIR` reads it back. Silence is labelled h#, other phones are among TIMIT's 61.
The speakers of TEST are the corpus's own, not the official ones: the reader says so and takes them by turns
for dev and test.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from framework.data.options import at_least
from framework.data.sphere import write_sphere
from framework.data.synth_speech import make_corpus
from framework.data.synthesis import Utterance
from framework.errors import ConfigError
from framework.script import command, no_option, options

DEFAULTS = {"out": "", "speakers": 24, "test": 8, "sentences": 10, "seed": 0}


def write_tree(out: Path, speakers: int, test: int, sentences: int, seed: int) -> int:
    """Write the tree of `speakers` training and `test` test voices; return the number of sentences."""
    written = 0
    for folder, split, count in (("TRAIN", "train", speakers), ("TEST", "test", test)):
        for i, (speaker, said) in enumerate(make_corpus(split, count, sentences, seed)):
            place = out / folder / f"DR{i % 8 + 1}" / speaker.name.upper()
            place.mkdir(parents=True, exist_ok=True)
            for k, utterance in enumerate(said):
                _write_sentence(place / f"SX{k + 1}", utterance)
                written += 1
    return written


def _write_sentence(stem: Path, utterance: Utterance) -> None:
    name = f"{stem.parent.name}_{stem.name}".lower()
    write_sphere(stem.with_suffix(".WAV"), utterance.wave, name)
    lines = [f"{s.begin} {s.end} {'h#' if s.label == 'sil' else s.label}\n" for s in utterance.segments]
    stem.with_suffix(".PHN").write_text("".join(lines), encoding="ascii")
    stem.with_suffix(".TXT").write_text(f"0 {len(utterance.wave)} {utterance.text}\n", encoding="ascii")


def main(given: list[str]) -> None:
    """Write as the arguments say. Raises ConfigError."""
    sizes, rest = options(given, DEFAULTS)
    if rest:
        raise no_option(rest[0], DEFAULTS)
    if not sizes["out"]:
        raise ConfigError("out", "no folder given", "Write out=DIR")
    out = Path(sizes.pop("out"))
    for key, least in (("speakers", 1), ("test", 2), ("sentences", 1), ("seed", 0)):
        at_least(key, sizes[key], least)
    written = write_tree(out, **sizes)
    print(f"{written} sentences in {out}; train on them with: python train.py data=timit data.root={out}")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))
