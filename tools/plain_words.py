"""Words that this project does not use, each with the one to use: python tools/plain_words.py [PATH ...]. Part of `make lint`."""

import re
import subprocess
import sys
from pathlib import Path

WORDS = {
    r"pictures?": "image",
    r"(?:go|goes|going|went|gone) on": "resume, continue",
    r"again and again": "repeatable, several times",
    r"(?:so|as) many times|so many": "times, many, this many",
    r"(?:says?|said) so(?! far)": "reports it, names it",
    r"(?:is|are|was|were|be) told": "gets, reads, learns",
    r"whoever|others'": "anybody who, of others",
    r"this very": "this",
    r"looked (?:at|into)": "checked, read, examined",
    r"(?:put|puts) right|cures?|cured": "fix, correct",
    r"in the midst|for the time being": "in the middle, temporarily",
    r"without a word|with a word|in words,? too": "without an error, with an error",
    r"(?:is|are|was|were) to be": "must be, should be",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"(?<!\.)tells?": "says, shows",
    r"(?<!-)stands? (?:in|for|on|at|beside|apart|there|here|under|above|below|before|with|between|as)\b": "is in, means",
    r"(?<!that )(?<!which )lies (?:in|on|at|here|there|beside|below|under|above)": "is in",
    r"lie (?:in|on|at|here|there|beside|below|under|above)": "are in",
    r"(?:it|that|which|what) is no (?:[a-z]+ )?(?:file|number|run|image|zip|table|error|set)": "is not a …",
    r"anew": "again, from the start",
    r"to be had": "available",
    r"at hand": "available",
    r"begun|beginning of": "started, start of",
    r"for ever": "forever",
    r"passed over": "skipped",
    r"whom": "which, who",
    r"under way": "in progress",
    r"lest": "so that … not",
    r"of (?:its|their|your|one's) own accord": "by itself",
    r"thrice|twofold|hitherto|whence|thereof|therein|wherein|save for": "plain words",
}
SKIPPED = ("bench/results/", "findings/", "tools/plain_words.py", "constraints.txt")
SUFFIXES = {".py", ".pyi", ".md", ".toml", ".c", ".sh", ".css", ".ipynb", ".yaml", ".sbatch"}
PATTERN = re.compile("|".join(rf"(?P<w{number}>\b(?:{words})\b)" for number, words in enumerate(WORDS)), re.IGNORECASE)
CURES = list(WORDS.values())


def found(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        f"{path}:{number}: {hit.group(0)!r}: use {CURES[int(str(hit.lastgroup)[1:])]}"
        for number, line in enumerate(lines, 1)
        for hit in PATTERN.finditer(line)
    ]


def main() -> int:
    listed = subprocess.run(["git", "ls-files", *sys.argv[1:]], capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [Path(name) for name in listed if Path(name).suffix in SUFFIXES and not name.startswith(SKIPPED) and Path(name).is_file()]
    lines = [line for path in paths for line in found(path)]
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
