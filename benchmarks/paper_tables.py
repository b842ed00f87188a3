"""The paper's tables 2 to 9: what we count and measure beside what is printed there.

    python benchmarks/paper_tables.py
    python benchmarks/paper_tables.py --model HASN.pth --data Set5=DIR --data Set14=DIR

Counts are of every variant. Quality is of the models that are given: the published network's belongs to the
last row of Table 9, that of a variant to its own rows. Prints Markdown and writes it to benchmarks/results/.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from result_files import machine_words, publish

from hasn_edge.bench.table import GAP, markdown_table
from hasn_edge.data.pairs import load_eval_set
from hasn_edge.evaluation.evaluate import score_session
from hasn_edge.model.comparators.ntire import HASNOfSPAB
from hasn_edge.model.complexity import NetworkCounts, count
from hasn_edge.model.zoo import load_model_checkpoint
from hasn_edge.runtime.open import open_model
from hasn_edge.spec import Activation, Gate, ModelSpec

SIZE = (256, 256)
"""Input of the paper's "FLOPs (G)", which are multiply-accumulates by fvcore's rules."""

SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")

FULL = ModelSpec()
CB = {"norm": False, "esa": False, "cab": False}
"""What the paper calls CB: its counts come out without LayerNorm, ESA and CAB."""

Quality = Mapping[str, tuple[float, float]]
"""PSNR-Y in dB and SSIM-Y by set."""


def quality(*values: float) -> Quality:
    """Return PSNR and SSIM of the sets, which stand one after the other."""
    return {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(SETS[: len(values) // 2])}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper."""

    name: str
    spec: ModelSpec | None
    """``None`` for the one that is not of our family."""
    parameters: int | None = None
    """Thousands."""
    macs: float | None = None
    """G."""
    printed: Quality
    published: bool = False
    """Whether the published checkpoint is of this row."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


CUT = "the paper cuts digits off instead of rounding"
ONE_NETWORK = (
    "the six-block network after stage 1 has 32.06 / 0.8938 on Set5 in Table 3, 32.06 / 0.8937 in Tables 6 "
    "and 9, and 32.07 / 0.8937 in Table 7; its weights are not published"
)
STAR = quality(31.87, 0.8915, 28.38, 0.7770, 27.45, 0.7338, 25.59, 0.7700, 29.53, 0.8981)
"""CB with multiplication and ReLU6 at 52 channels: a row of Tables 2, 4, 5, 7 and 8."""


def cb(**fields: object) -> ModelSpec:
    """Return a network of convolutional blocks alone."""
    return ModelSpec.from_dict({**CB, **fields})


def counted(
    number: int,
    title: str,
    rows: Iterable[tuple[str, ModelSpec, float, float, Sequence[float]]],
    notes: Sequence[str] = (),
) -> Table:
    """Return a table whose rows have a name, a network, thousands of parameters, GMACs and quality."""
    return Table(
        number=number,
        title=title,
        rows=[
            Row(name=name, spec=spec, parameters=thousands, macs=giga, printed=quality(*values))
            for name, spec, thousands, giga, values in rows
        ],
        notes=notes,
    )


def counted_tables() -> Iterator[Table]:
    """Yield tables 2 to 4."""
    add, times = Gate.ADD.value, Gate.MULTIPLY.value
    gates = [
        (30, add, 90, 5.77, (31.45, 0.8847, 28.13, 0.7704, 27.27, 0.7272, 25.15, 0.7539, 29.03, 0.8868)),
        (30, times, 90, 5.77, (31.52, 0.8858, 28.18, 0.7716, 27.30, 0.7280, 25.23, 0.7560, 29.04, 0.8871)),
        (52, add, 227, 14.73, (31.85, 0.8908, 28.36, 0.7764, 27.42, 0.7328, 25.52, 0.7678, 29.67, 0.8979)),
        (52, times, 227, 14.73, (31.87, 0.8915, 28.38, 0.7770, 27.45, 0.7338, 25.59, 0.7700, 29.53, 0.8981)),
        (90, add, 610, 39.62, (32.01, 0.8933, 28.47, 0.7799, 27.52, 0.7362, 25.86, 0.7795, 30.08, 0.9039)),
        (90, times, 610, 39.62, (32.07, 0.8940, 28.51, 0.7809, 27.54, 0.7368, 25.87, 0.7800, 29.91, 0.9031)),
    ]
    yield counted(
        2,
        "sum or product in the convolutional block, by channels",
        ((f"{gate}, {dim} channels", cb(features=dim, gate=gate), *printed) for dim, gate, *printed in gates),
    )
    depths = [
        (2, 177, 10.98, (31.69, 0.8878, 28.26, 0.7742)),
        (4, 306, 18.81, (31.86, 0.8909, 28.40, 0.7776)),
        (6, 435, 26.63, (32.06, 0.8938, 28.52, 0.7803)),
        (8, 564, 34.46, (32.06, 0.8933, 28.50, 0.7785)),
        (10, 693, 42.28, (32.15, 0.8948, 28.56, 0.7808)),
        (12, 822, 50.11, (29.11, 0.8268, 26.58, 0.7277)),
    ]
    yield counted(
        3,
        "number of blocks",
        ((f"{blocks} blocks", ModelSpec(blocks=blocks), *printed) for blocks, *printed in depths),
        notes=(ONE_NETWORK,),
    )
    kernels = [
        (3, 202, 13.09, (31.74, 0.8900, 28.32, 0.7759, 27.39, 0.7315, 25.50, 0.7656, 29.49, 0.8961)),
        (5, 212, 13.75, (31.79, 0.8903, 28.36, 0.7768, 27.43, 0.7329, 25.56, 0.7687, 29.65, 0.8979)),
        (7, 227, 14.73, (31.87, 0.8915, 28.38, 0.7770, 27.45, 0.7338, 25.59, 0.7700, 29.53, 0.8981)),
        (9, 247, 16.04, (31.89, 0.8915, 28.41, 0.7774, 27.45, 0.7336, 25.58, 0.7705, 29.61, 0.8979)),
    ]
    yield counted(
        4,
        "depthwise kernel",
        ((f"{side} x {side}", cb(kernel_size=side), *printed) for side, *printed in kernels),
    )


def other_tables() -> Iterator[Table]:
    """Yield tables 5 to 9."""
    with_skip = quality(31.74, 0.8897, 28.31, 0.7756, 27.41, 0.7324, 25.51, 0.7669, 29.51, 0.8955)
    yield Table(
        number=5,
        title="a residual connection around each block",
        rows=[
            Row(name="(a) without", spec=cb(), printed=STAR),
            Row(name="(b) with", spec=cb(residual=True), printed=with_skip),
        ],
    )
    spab = quality(31.91, 0.8922, 28.39, 0.7776, 27.45, 0.7335, 25.66, 0.7719, 29.88, 0.9004)
    stage_1 = quality(32.06, 0.8937, 28.52, 0.7802, 27.52, 0.7360, 25.88, 0.7798, 30.12, 0.9031)
    yield Table(
        number=6,
        title="SPAN's block instead of HASN's",
        rows=[
            Row(name="SPAB", spec=None, parameters=836, printed=spab),
            Row(name="HASB", spec=FULL, parameters=435, printed=stage_1),
        ],
        notes=(
            "836k come out at 30 channels, with each convolution in the form that trains and its merged copy"
            " as well (835,758 parameters); ours is of HASN's 52 channels, merged as it is run, and has 168k"
            " at 30: that HASN has half the parameters does not hold of what runs",
            ONE_NETWORK,
        ),
    )
    cab = quality(31.96, 0.8924, 28.44, 0.7787, 27.48, 0.7347, 25.70, 0.7742, 29.90, 0.9005)
    esa = quality(32.01, 0.8928, 28.42, 0.7784, 27.47, 0.7346, 25.75, 0.7757, 29.86, 0.9010)
    attention = [
        ("CB", {}, STAR),
        ("CB, CAB", {"cab": True}, cab),
        ("CB, ESA", {"esa": True}, esa),
    ]
    both = quality(32.07, 0.8937, 28.52, 0.7802, 27.52, 0.7360, 25.88, 0.7798, 30.12, 0.9031)
    yield Table(
        number=7,
        title="attention",
        rows=[
            *(Row(name=name, spec=cb(**fields), printed=printed) for name, fields, printed in attention),
            Row(name="CB, ESA, CAB", spec=FULL, printed=both),
        ],
        notes=(
            "the paper does not say which of these have LayerNorm: counted without it but for the last, "
            "which is the published network",
            ONE_NETWORK,
        ),
    )
    relu = quality(31.81, 0.8907, 28.40, 0.7775, 27.45, 0.7337, 25.60, 0.7702, 29.67, 0.8985)
    leaky = quality(31.80, 0.8909, 28.36, 0.7768, 27.45, 0.7336, 25.60, 0.7702, 29.60, 0.8983)
    yield Table(
        number=8,
        title="activation",
        rows=[
            Row(name="ReLU", spec=cb(activation=Activation.RELU.value), printed=relu),
            Row(name="LeakyReLU", spec=cb(activation=Activation.LEAKY_RELU.value), printed=leaky),
            Row(name="ReLU6", spec=cb(), printed=STAR),
        ],
    )
    warm = quality(32.08, 0.8940, 28.55, 0.7806, 27.53, 0.7365, 25.89, 0.7805, 30.16, 0.9039)
    both_sets = quality(32.17, 0.8953, 28.59, 0.7817, 27.58, 0.7377, 26.03, 0.7846, 30.29, 0.9055)
    yield Table(
        number=9,
        title="warm-start retraining",
        rows=[
            Row(name="without, DIV2K", spec=FULL, printed=stage_1),
            Row(name="with, DIV2K", spec=FULL, printed=warm),
            Row(name="with, DF2K", spec=FULL, printed=both_sets, published=True),
        ],
        notes=(
            "ours is of the published checkpoint's averaged weights, without self-ensemble; why PSNR differs"
            " by 0.01 to 0.02 dB and SSIM by 0.0003 to 0.0005 is not known",
            ONE_NETWORK,
        ),
    )


def counts_of(spec: ModelSpec | None) -> NetworkCounts:
    """Return the counts of a row at :data:`SIZE`."""
    return HASNOfSPAB().counts(*SIZE) if spec is None else count(spec, *SIZE)


def count_cells(row: Row) -> tuple[list[str], list[str]]:
    """Return theirs and ours of parameters and MACs, and what is to be said of differences."""
    ours, notes = counts_of(row.spec), []
    own = [ours.parameters / 1e3, ours.macs / 1e9]
    found = []
    for theirs, value, digits, what in zip((row.parameters, row.macs), own, (0, 2), ("k", " G"), strict=True):
        text = f"{value:.{digits + 1}f}"
        if theirs is None:
            found += [GAP, text]
            continue
        cut_off = int(value * 10**digits) / 10**digits
        mark = ""
        if round(value, digits) != theirs:
            mark = " *" if cut_off == theirs else " **"
            if mark == " **":
                notes.append(f"{row.name}: {value - theirs:+.{digits}f}{what}")
        found += [f"{theirs:.{digits}f}", f"{text}{mark}"]
    return found, notes


def quality_cell(row: Row, name: str, measured: Quality | None) -> str:
    """Return theirs and, where it was measured, ours and the difference."""
    if name not in row.printed:
        return GAP
    psnr, ssim = row.printed[name]
    text = f"{psnr:.2f} / {ssim:.4f}"
    if measured is None or name not in measured:
        return text
    own = measured[name]
    return f"{text}; ours {own[0]:.3f} / {own[1]:.4f} ({own[0] - psnr:+.3f} / {own[1] - ssim:+.4f})"


def table_lines(table: Table, measured: Mapping[ModelSpec, Quality]) -> Iterator[str]:
    """Yield a table as Markdown."""
    sets = [name for name in SETS if any(name in row.printed for row in table.rows)]
    headings = ["", "k parameters, paper", "ours", "GMACs, paper", "ours", *sets]
    rows, notes = [], []
    for row in table.rows:
        cells, differences = count_cells(row)
        notes += differences
        # The published network's weights are of one row; what others would have is not known.
        own = measured.get(row.spec) if row.spec and (row.published or row.spec != FULL) else None
        rows.append([row.name, *cells, *(quality_cell(row, name, own) for name in sets)])
    yield from (f"## Table {table.number}: {table.title}", "")
    yield from markdown_table(headings, rows)
    yield ""
    marks = "".join(rows[i][c] for i in range(len(rows)) for c in (2, 4))
    if " *" in marks.replace(" **", ""):
        yield f"- \\* {CUT}."
    if notes:
        yield f"- \\*\\* differs: {'; '.join(notes)}."
    yield from (f"- {note[0].upper()}{note[1:]}." for note in table.notes)
    yield ""


@click.command()
@click.option("--model", "models", multiple=True, help="Weights to measure; repeatable.")
@click.option("--data", "sets", multiple=True, metavar="NAME=DIR", help="A set of the paper; repeatable.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(models: tuple[str, ...], sets: tuple[str, ...], output: Path) -> None:
    """Count, measure what is given, print and write the tables."""
    measured: dict[ModelSpec, Quality] = {}
    for model in models:
        spec = load_model_checkpoint(model).spec
        found = {}
        with open_model(model, backend="pytorch") as session:
            for text in sets:
                scores = score_session(session, load_eval_set(text, spec.scale), keep_outputs=False)
                found[scores.name] = (scores.psnr_y, scores.ssim_y)
        measured[spec] = found
    lines = ["# The paper's tables 2 to 9", ""]
    lines += [
        "Counts at a 256x256 input by fvcore's rules, with which the paper's agree. Quality: PSNR-Y in dB "
        "and SSIM-Y as the paper prints them; ours where the weights were given.",
        "",
    ]
    for table in (*counted_tables(), *other_tables()):
        lines += table_lines(table, measured)
    options = "".join(f" --model {Path(model).name}" for model in models)
    options += "".join(f" --data {text.partition('=')[0]}=DIR" for text in sets)
    lines.append(
        f"Printed by `python benchmarks/paper_tables.py{options}` on {datetime.date.today().isoformat()}; "
        f"{machine_words()}."
    )
    publish("\n".join(lines) + "\n", output, "paper_tables")


if __name__ == "__main__":
    main()
