"""What every verb of the command line does, recorded, so that two recordings can be compared.

    python benchmarks/verbs.py record DIR                   # of the installation that runs it; some minutes
    python benchmarks/verbs.py record DIR --only 'train*'   # these cases anew, the others stay
    python benchmarks/verbs.py compare BEFORE AFTER --markdown benchmarks/results/verbs.md

Every case runs by itself in a folder of its own, as child processes, on inputs that are always the same. Kept
are exit codes, both streams and every file that was written. ``compare`` exits with 1 where exit codes, names
of files or what is in them differ for no reason that verbs_changes.py states. Messages may be worded anew:
those differences, in sentences inside JSON and Markdown as well, are listed apart and do not count. Figures
that a clock decides are left out of both.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import fnmatch
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verbs_cases import Case, cases
from verbs_changes import CHANGES, RENAMED_FILES, RENAMED_KEYS
from verbs_files import compare_contents
from verbs_record import contents, digest, fix_new_keys, make_inputs, package, run_case

STARTS = 20
"""Processes whose start-up is timed."""

ENGINE = ".engine"
"""Engines of two builds may differ in bytes: of them the graph, the sidecar and the name are compared."""
UNSTABLE = r"events\.out\.tfevents\..*"
"""Files whose names and bytes hold the time, wherever they are."""
VARIES = re.compile(r"date|load average|(.*_)?seconds|.*_ms")
"""Keys of JSON whose values depend on time, in every case."""
CLOCKED_COLUMNS = ("it_per_s", "loader_patches_per_s")
TIME = re.compile(
    r"\d[\d.,]*(?= ?(?:ms|s|fps|it/s|times as long|x the time)\b)"
    r"|(?<=ETA )[\d:]+|(?<=network )\d+|(?<=loader )\d+"
    r"|\b[0-9a-f]{12}(?=\.\.\.)"
)
"""Durations, rates, and beginnings of hashes, in messages."""
NUMBER, RULE = re.compile(r"\d[\d.,]*"), re.compile(r"[ \t─━═]+")
VERDICT = re.compile(r"the time of|throttled|limited by|times as long|^the ONNX graph|^int8:")
"""Lines of a case with timings that are there or not, depending on them."""


def record(folder: Path, only: str) -> None:
    """Run the cases that ``only`` names and write one file of each."""
    with tempfile.TemporaryDirectory(prefix="verbs-") as root:
        inputs = Path(root, "inputs")
        inputs.mkdir()
        make_inputs(inputs)
        hashes = {name: digest(inputs / name) for name in contents(inputs)}
        write_json(folder / "inputs.json", hashes)
        write_json(folder / "machine.json", machine())
        fix_new_keys(inputs)
        for case in cases():
            if not fnmatch.fnmatchcase(case.name, only):
                continue
            result = run_case(case, inputs, folder / "files" / case.name)
            write_json(folder / "cases" / f"{case.name}.json", result)
            took = sum(step["seconds"] for step in result["steps"])
            codes = " ".join(str(step["code"]) for step in result["steps"])
            print(f"{case.name}: {codes}; {len(result['files'])} files, {took:.1f} s", flush=True)
    if fnmatch.fnmatchcase("startup", only):
        commands = {"python -c pass": ["-c", "pass"], "hasn-edge --help": ["-m", "hasn_edge", "--help"]}
        write_json(folder / "startup.json", {name: start_up(args) for name, args in commands.items()})


def machine() -> dict[str, str]:
    """Return where and of what a recording is made."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    git = ["git", "-C", str(package()), "log", "-1", "--format=%h"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "commit": commit or "unknown",
    }


def start_up(args: list[str]) -> list[float]:
    """Return the wall-clock seconds of some runs of this Python, after one that compiles the modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken = []
    for _ in range(STARTS + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *args], check=True, capture_output=True, env=environment)
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def write_json(path: Path, value: object) -> None:
    """Write a file of the recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


class Side:
    """One case of one recording, without what a clock or a folder's name decides."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.case = case
        self.kept = folder / "files" / case.name
        self.record = json.loads((folder / "cases" / f"{case.name}.json").read_text(encoding="utf-8"))
        self.unstable = re.compile(f"{UNSTABLE}|{case.unstable}")
        self.files = {self.renamed(name): name for name in self.record["files"]}
        self.digests = {name: digest(self.kept / name) for name in self.record["files"]}
        replaced = dict(self.record["places"])
        for name, facts in self.record["files"].items():
            if facts["sha256"] != self.digests[name] or name.endswith(ENGINE):
                replaced[facts["sha256"]] = f"<hash of {name}>"
        self.replaced = sorted(replaced.items(), key=lambda pair: -len(pair[0]))

    def renamed(self, name: str) -> str:
        """Return what a file is called now, without what a clock decides of its name."""
        for old, new in RENAMED_FILES.items():
            name = re.sub(old, new, name)
        return self.unstable.sub("*", name)

    def plain(self, text: str) -> str:
        """Return a text without places, and without figures where they come from a clock."""
        for old, new in self.replaced:
            text = text.replace(old, new)
        if self.case.timed:
            lines = [self.unstable.sub("*", line) for line in text.splitlines() if not VERDICT.search(line)]
            text = NUMBER.sub("#", RULE.sub(" ", "\n".join(lines)))
        return TIME.sub("#", text)

    def flat(self, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """Yield the path and value of everything in JSON that a clock does not decide."""
        if isinstance(value, dict) and value:
            for old, item in value.items():
                key = RENAMED_KEYS.get(old, old)
                clocked = VARIES.fullmatch(key) or key in self.case.varies
                yield from [(f"{path}.{key}", "#")] if clocked else self.flat(item, f"{path}.{key}")
        elif isinstance(value, list) and value:
            names = [item.get("name", item.get("what")) if isinstance(item, dict) else None for item in value]
            if None in names or len({*names}) < len(names):
                names = [*range(len(value))]
            for name, item in zip(names, value, strict=True):
                yield from self.flat(item, f"{path}[{self.plain(name) if isinstance(name, str) else name}]")
        else:
            yield path, self.plain(value) if isinstance(value, str) else value

    def lines(self, name: str) -> list[str] | None:
        """Return a text file's lines; ``None`` of a file that is no text."""
        content = (self.kept / name).read_bytes()
        if b"\0" in content:
            return None
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        if name.endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text))
            return [str({k: v for k, v in row.items() if k not in CLOCKED_COLUMNS}) for row in rows]
        return self.plain(text).splitlines()


def as_json(text: str) -> Any:
    """Return the value of a JSON object; ``None`` of any other text."""
    try:
        return json.loads(text) if text.startswith("{") else None
    except ValueError:
        return None


def unified(old: list[str], new: list[str], name: str) -> list[str]:
    """Return the lines that differ."""
    return list(difflib.unified_diff(old, new, f"before: {name}", f"after: {name}", lineterm="", n=0))


def take_moved(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Take out values that stand under another key on the other side; return from where to where."""
    moved = []
    for tail in (True, False):  # the last part of a key stays, or changes too and only long values count
        for path in [path for path in left if path not in right]:
            for other in [other for other in right if other not in left]:
                same = path.rpartition(".")[2] == other.rpartition(".")[2]
                telling = isinstance(left[path], float) or (isinstance(left[path], str) and " " in left[path])
                if (same if tail else telling) and left[path] == right[other]:
                    moved.append(f"{path[1:]} -> {other[1:]}")
                    del left[path], right[other]
                    break
    return moved


def compare_json(old: Side, new: Side, texts: tuple[str, str], name: str) -> tuple[list[str], list[str]]:
    """Return how values and keys differ, and how sentences do."""
    left, right = dict(old.flat(as_json(texts[0]))), dict(new.flat(as_json(texts[1])))
    moved = take_moved(left, right)
    differences = [f"{name}: {len(moved)} values under other keys, as {moved[0]}"] if moved else []
    wording: list[str] = []
    for path in dict.fromkeys((*left, *right)):
        before, after = (repr(side[path]) if path in side else "nothing" for side in (left, right))
        if before != after:
            sentences = all(isinstance(side.get(path), str) and " " in side[path] for side in (left, right))
            (wording if sentences else differences).append(f"{name}: {path[1:]}: {before} -> {after}")
    return differences, wording


def compare_file(old: Side, new: Side, name: str) -> tuple[list[str], list[str]]:
    """Return how a file that both wrote differs in what it holds, and in words."""
    names = old.files[name], new.files[name]
    if old.digests[names[0]] == new.digests[names[1]]:
        return [], []
    if name.endswith(ENGINE) or old.unstable.search(names[0]):
        return [], []
    paths = old.kept / names[0], new.kept / names[1]
    if contents_differ := compare_contents(*paths):
        return [f"{name}: {contents_differ}"], []
    before, after = old.lines(names[0]), new.lines(names[1])
    if before is None or after is None:
        return [f"{name}: bytes that differ"], []
    if name.endswith(".json"):
        texts = [path.read_text(encoding="utf-8") for path in paths]
        return compare_json(old, new, (texts[0], texts[1]), name)
    lines = unified(before, after, name)
    return ([], lines) if name.endswith(".md") else (lines, [])


def compare_case(old: Side, new: Side) -> tuple[list[str], list[str]]:
    """Return what differs between two runs of a case, and what is only worded otherwise."""
    differences: list[str] = []
    wording: list[str] = []
    for what, before, after in (
        ("removed", old.record["removed"], new.record["removed"]),
        ("steps", len(old.record["steps"]), len(new.record["steps"])),
    ):
        if before != after:
            differences.append(f"{what}: {before} -> {after}")
    for number, (before, after) in enumerate(zip(old.record["steps"], new.record["steps"], strict=False), 1):
        label = f"step {number}, {after['command'] or 'no arguments'}"
        for key in ("command", "code"):
            if before[key] != after[key]:
                differences.append(f"{label}: {key} {before[key]} -> {after[key]}")
        for stream in ("stdout", "stderr"):
            texts = before[stream], after[stream]
            if all(as_json(text) is not None for text in texts):
                found, words = compare_json(old, new, texts, f"{label}, {stream}")
                differences += found
                wording += words
            else:
                lines = [side.plain(text).splitlines() for side, text in zip((old, new), texts, strict=True)]
                wording += unified(lines[0], lines[1], f"{label}, {stream}")
    differences += [f"no longer written: {name}" for name in old.files if name not in new.files]
    differences += [f"written now: {name}" for name in new.files if name not in old.files]
    for name in old.files:
        if name in new.files:
            found, words = compare_file(old, new, name)
            differences += found
            wording += words
    return differences, wording


def count_equal(old: Side, new: Side) -> Counter[str]:
    """Count what two runs of a case wrote and printed, and how much of it is equal byte for byte."""
    count: Counter[str] = Counter()
    for before, after in zip(old.record["steps"], new.record["steps"], strict=False):
        count["commands"] += 1
        count["equal codes"] += before["code"] == after["code"]
        for stream in ("stdout", "stderr"):
            count["texts"] += bool(before[stream] or after[stream])
            count["equal texts"] += bool(before[stream]) and before[stream] == after[stream]
    for name in old.files.keys() & new.files.keys():
        facts = old.record["files"][old.files[name]], new.record["files"][new.files[name]]
        count["files"] += 1
        equal = facts[0]["sha256"] == facts[1]["sha256"]
        same = not equal and compare_file(old, new, name) == ([], [])
        kind = Path(name).suffix
        count += Counter({"equal files": equal, "same files": same})
        count += Counter({f"files{kind}": 1, f"equal files{kind}": equal, f"same files{kind}": same})
    return count


def explain(name: str, lines: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Divide the differences of a case into those that were wanted, by the reason, and the others."""
    wanted: dict[str, list[str]] = defaultdict(list)
    others = []
    for line in lines:
        for change in CHANGES:
            if fnmatch.fnmatchcase(name, change.cases) and re.search(change.pattern, line):
                wanted[change.why].append(line)
                break
        else:
            others.append(line)
    if all(line.startswith(("---", "+++", "@@")) for line in others):  # the headers of lines that were wanted
        others = []
    return wanted, others


def listed(title: str, several: dict[str, list[str]]) -> str:
    """Return the lines of each case that has some."""
    parts = [f"{title}: {sum(map(bool, several.values()))} cases"]
    for name, lines in several.items():
        parts += [f"  {line}" for line in (f"[{name}]", *lines)] if lines else []
    return "\n".join(parts)


def compare(before: Path, after: Path, only: str, markdown: Path | None) -> bool:
    """Print what differs between two recordings; return whether only words and what was wanted do."""
    found: dict[str, list[str]] = {}
    words: dict[str, list[str]] = {}
    wanted: dict[str, dict[str, list[str]]] = {change.why: {} for change in CHANGES}
    count: Counter[str] = Counter()
    if (before / "inputs.json").read_bytes() != (after / "inputs.json").read_bytes():
        found["inputs"] = ["they are not the same ones: nothing below can be trusted"]
    known = {case.name: case for case in cases()}
    recorded = [{path.stem for path in (folder / "cases").glob("*.json")} for folder in (before, after)]
    chosen = [name for name in sorted(recorded[0] | recorded[1]) if fnmatch.fnmatchcase(name, only)]
    for name in chosen:
        if not all(name in names for names in recorded):
            found[name] = [f"recorded only {'before' if name in recorded[0] else 'after'}"]
            continue
        case = known.get(name, Case(name, ()))
        sides = Side(before, case), Side(after, case)
        differences, words[name] = compare_case(*sides)
        reasons, found[name] = explain(name, differences)
        for why, lines in reasons.items():
            wanted[why][name] = lines
        count += count_equal(*sides) + Counter(cases=1)
        count["equal cases"] += not (differences or words[name])
    print(listed("Wording", words))
    for why, lines in wanted.items():
        print(listed(f"Wanted: {why}", lines))
    print(listed("Differences", found))
    summary = [*describe(before, after, count), *table(wanted)]
    remaining = [name for name, lines in found.items() if lines]
    summary.append(f"Other differences: {', '.join(remaining) or 'none'}.")
    print("\n".join(summary))
    if markdown is not None:
        head = "# Every verb, before and after\n\n`python benchmarks/verbs.py compare` wrote this.\n\n"
        markdown.write_text(head + "\n".join(summary) + "\n", encoding="utf-8")
    return not remaining


def describe(before: Path, after: Path, count: Counter[str]) -> Iterator[str]:
    """Yield what was compared, and how much of it is equal."""
    for side, folder in (("before", before), ("after", after)):
        facts = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
        yield f"- {side}: {', '.join(f'{name} {value}' for name, value in facts.items())}"
    yield f"- {count['commands']} commands, {count['cases']} cases; equal exit codes: {count['equal codes']}"
    yield f"- {count['files']} files that both wrote: {count['equal files']} equal byte for byte"
    yield (
        f"- {count['same files']} more but for a clock, a folder, random numbers and names of modules; of "
        "engines only the sidecars are compared"
    )
    yield ""
    yield from (
        "| kind of file | both wrote | equal byte for byte | equal but for a clock and the like |",
        "|---|---|---|---|",
    )
    for kind in sorted(key.removeprefix("files") for key in count if key.startswith("files.")):
        numbers = (count[f"{key}{kind}"] for key in ("files", "equal files", "same files"))
        yield f"| {' | '.join([kind, *map(str, numbers)])} |"
    yield ""
    yield f"- {count['texts']} texts on standard output and error: {count['equal texts']} equal byte for byte"
    yield f"- cases in which nothing but a clock or a folder differs: {count['equal cases']}"
    for side, path in (("before", before / "startup.json"), ("after", after / "startup.json")):
        taken = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        medians = (f"`{name}` {1e3 * statistics.median(times):.0f} ms" for name, times in taken.items())
        yield f"- start-up {side}, median of {STARTS}: {'; '.join(medians) or 'not recorded'}"
    yield ""


def table(wanted: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Yield the differences that were wanted, as a table in Markdown."""
    yield from ("| differs on purpose | cases | for example |", "|---|---|---|")
    for why, several in wanted.items():
        for name, lines in [*several.items()][:1]:
            example = next((line for line in lines if not line.startswith(("---", "+++", "@@"))), lines[0])
            cells = why, str(len(several)), f"`{name}`: {example[:160]}"
            yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, folders in (("record", ("folder",)), ("compare", ("before", "after"))):
        command = verbs.add_parser(verb)
        for folder in folders:
            command.add_argument(folder, type=Path)
        if verb == "compare":
            command.add_argument("--markdown", type=Path, metavar="FILE", help="also write a summary")
        command.add_argument("--only", default="*", metavar="NAME", help="case, or a pattern: 'build*'")
    options = parser.parse_args()
    if options.verb == "record":
        record(options.folder, options.only)
    else:
        sys.exit(0 if compare(options.before, options.after, options.only, options.markdown) else 1)


if __name__ == "__main__":
    main()
