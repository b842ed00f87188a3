"""What verbs do otherwise than in version 0.1 on purpose, for the comparison of benchmarks/verbs.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A kind of difference that was wanted."""

    cases: str
    """Which cases it may be in: a pattern of their names."""
    pattern: str
    """What the difference looks like: a regular expression that is searched in its line."""
    why: str
    """The change, as a sentence for the result."""


RENAMED_FILES = {
    r"-weak-10(?=[-.])": "-weakly-typed-trt10",
    r"-weak(?=[-.])": "-weakly-typed",
    r"-strong(?=[-.])": "-strongly-typed",
}
"""Regular expressions of names of files, and what stands there now."""
RENAMED_KEYS = {
    "minimum": "min",
    "typical": "opt",
    "maximum": "max",
    "pictures": "images",
    "processor": "CPU",
}
"""Keys of JSON, and what they are called now."""

CLEAR = "Colours under full transparency stay away from the network."
SIDECAR = "Sidecars have schema 2, with types: what is empty or said twice is left out."

TRAINED = "`hasn-x4` was trained on; the network that did not change, and those of the inputs, give the same."
ORDER = "Nodes of an INT8 graph stand in another order; they, their values and all figures are the same."
SHIFT = "Recipes may equalize channels and shift inputs; sidecars state whether they did."
SHARDS = "Prepared data states what each image was made from, so that no image is decoded twice."
TRAIN = "Recipes have more settings, which run.json and weights name; the tensors are the same."
DEMO = "The JSON of demo speaks of the CPU, and has the state of the run."
BENCH = "The JSON of bench has schema 5: names, bicubic, busy cores, and no speed-up where rounds disagree."
EQUALIZED = (
    "Recipes that ship equalize channels before INT8: other graphs, ranges and scores. With the recipe of "
    "version 0.1 these are the same (`build-plain-recipe`)."
)
INT8 = (
    r"int8.*(bytes that differ|sha256|parent|details\.(ranges|measured|recipe|golden))|rgb_x4.*pixels differ"
)

CHANGES: tuple[Change, ...] = (
    Change("*", "recorded only after", "A case that version 0.1 could not run."),
    Change("doctor", "findings|can", "The doctor says CPU, and lists Pillow, which reads images now."),
    Change("upscale-rgba.png", "pixels differ", CLEAR),
    Change("upscale-to-*", "pixels differ", CLEAR),
    Change("upscale-turned.jpg", "same pixels", "The resolution of an image is carried over."),
    Change("*", r"\.json: schema: 1 -> 2", SIDECAR),
    Change("*", r"\.json: .*(None|\[\]|\{\}|'') -> nothing", SIDECAR),
    Change("*", r"\.json: details\.precision: .* -> nothing", SIDECAR),
    Change("*", r"\.json: details\.flags\.require_user_allocation: True -> nothing", SIDECAR),
    Change("*", r"\.json: details\.cache_key: ", SIDECAR),
    Change("*", r"\.json: details\.flags\.\w+: nothing -> \[\]", SIDECAR),
    Change(
        "*", r"\.json: details\.kernels\.", "Sidecars state which kernels an engine has, and what they read."
    ),
    Change("*", r"\.json: details\.form: '(weak|weak-10|strong)' -> '\1ly-typed", SIDECAR),
    *(Change(f"build-{case}", INT8, EQUALIZED) for case in ("*-int8", "pixels", "recipe", "auto")),
    Change("build-rtx-int8", r"details\.warnings", "A build warns of kernels that read INT8 and write FP32."),
    Change("build-rtx-fp16", r"engine\.json: sha256", "Two builds of an engine differ in bytes."),
    Change("bench", r"cases\[[34]\]\.quality", EQUALIZED),
    Change(
        "bench", r"cases\[5\]\.(quality|not_measured)", "No drift of tiles is stated where no image has two."
    ),
    Change(
        "bench*",
        r"schema|under other keys|(turns|rounds)_seconds|no_speedup|bicubic|busy_cores|failure",
        BENCH,
    ),
    Change(
        "build-*", r"details\.fused", "Equalizing needs the weights of LayerNorm, which are not folded then."
    ),
    Change(
        "build-*",
        r"(weakly-typed|strongly-typed|rtx).*(bytes|sha256|parent|nodes|measured|golden|layers|fp32_layers)",
        "Graphs for TensorRT are fused by rules that make engines lighter.",
    ),
    Change("build-auto", r"cache/candidates", "On a CPU `auto` times OpenVINO too, and no FP16."),
    Change("*", r"environment\.openvino", "Machines are described with the version of OpenVINO."),
    *(
        Change(
            f"{verb}-default*", r"hasn-x4-fp(16|32).*(bytes|sha256|source|measured)|rgb_x4.*pixels", TRAINED
        )
        for verb in ("upscale", "export", "build")
    ),
    Change("build-plain-recipe", "the same nodes in another order|sha256", ORDER),
    Change("build-*", r"details\.(recipe\.(shift|spread|equalize)|ranges\.(lows|spread)): nothing", SHIFT),
    Change("*", r"shards\.json: images\[.*\]\.(lr_)?source: nothing", SHARDS),
    Change("train*", "the same values, packed otherwise", TRAIN),
    Change("train*", r"run\.json: (recipe\.|branched_at: )|(best|last).*the same tensors", TRAIN),
    Change("demo-*", r"environment\.CPU -> environment\.cpu|latency_begins|state: |opening: ", DEMO),
    Change("eval*", r"eval\.json: ", "The JSON of eval has the scores of several models."),
    Change("export-onnx", r"eval\.json: ", "The JSON of eval has the scores of several models."),
)
