"""What a training run is: every value that decides its result, as strict TOML."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from hasn_edge.config import Count, Fraction, NotNegative, Positive, load_config
from hasn_edge.data.degrade import Degradation
from hasn_edge.data.patches import Augmentation, PatchSource
from hasn_edge.data.shards import Shards
from hasn_edge.errors import ConfigError
from hasn_edge.spec import ModelSpec

# Beyond these, PyTorch's and NumPy's own limits end a run with theirs.
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Steps = Annotated[int, Meta(ge=1, le=999_999_999)]
"""What nine digits of a state's name hold."""
Below1 = Annotated[float, Meta(ge=0, lt=1)]
UpTo1 = Annotated[float, Meta(gt=0, le=1)]
UpTo100 = Annotated[float, Meta(gt=0, le=100)]

RECIPES = Path(__file__).parent / "recipes"


class Schedule(str, Enum):
    """How the learning rate moves over the run; warm-up comes before each."""

    CONSTANT = "constant"
    STEPS = "steps"
    COSINE = "cosine"
    WSD = "wsd"


class InitKind(str, Enum):
    """How weights start; see ``train/init.py`` for what each does."""

    DEFAULT = "default"
    VARIANCE = "variance"
    DELTA = "delta"


class Autocast(str, Enum):
    """Number format of the matrix work; depthwise convolutions and LayerNorm stay in float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class MemoryFormat(str, Enum):
    """Order in which activations and weights lie in memory: it decides speed, and the last bits of sums."""

    AUTO = "auto"
    CHANNELS_LAST = "channels_last"
    CONTIGUOUS = "contiguous"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run with its own patches."""

    until: Fraction = 1.0
    """Fraction of all iterations at which the phase ends; the last phase ends at 1."""
    patch: Count = 192
    """Side of the HR patch in pixels, a multiple of the scale."""
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    """Patches in one optimizer step, over all processes and accumulation steps together."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam, Muon beside it where a recipe asks for it, and the learning rate of both."""

    lr: UpTo100 = 2e-4
    """Peak learning rate."""
    muon: bool = False
    """Step the 1x1 convolutions of the blocks with Muon (Jordan et al. 2024, ``torch.optim.Muon``) instead of
    Adam: its momentum, made orthogonal, and scaled so that ``lr`` means what it means to Adam."""
    cab: UpTo100 = 1.0
    """Factor of the rate for the 3x3 convolutions of CAB. They read features that are not normalised, and
    what those have in common adds up over 468 weights: at the full rate a few steps push their GELUs into
    silence (``benchmarks/results/training_init.md``)."""
    betas: tuple[Below1, Below1] = (0.9, 0.99)
    """Adam's decay of the first and second moment."""
    weight_decay: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """L2 penalty as Adam has it, added to the gradient; what Muon steps has none."""
    schedule: Schedule = Schedule.STEPS
    """How the rate moves after the warm-up: ``"constant"``, ``"steps"``, ``"cosine"`` or ``"wsd"`` (constant,
    then a decay at the end, which a branch may also begin earlier)."""
    warmup: Annotated[int, Meta(ge=0)] = 0
    """Iterations of linear warm-up."""
    milestones: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """Iterations at which the learning rate is multiplied by ``gamma`` (``steps`` only)."""
    gamma: UpTo1 = 0.5
    """Factor at each milestone."""
    decay: Fraction = 0.1
    """Fraction of all iterations, the last ones, over which ``wsd`` decays."""
    final: Fraction = 0.0
    """Fraction of ``lr`` that ``cosine`` and ``wsd`` end at."""
    clip: Positive | None = None
    """Largest norm of the gradient; larger ones are scaled down to it."""

    def __post_init__(self) -> None:
        if self.schedule is Schedule.WSD and self.decay >= 1:
            raise ConfigError("optimizer.decay is 1; wsd needs a constant part, so expected less than 1")

    def decay_begin(self, iterations: int) -> int:
        """Return the step (from 0) at which ``wsd`` begins to decay; up to it all plans have the same past.

        That makes the constant part open-ended: with more ``iterations`` only the decay moves. For the other
        schedules, whose past may depend on ``iterations``, the answer is ``iterations``.
        """
        if self.schedule is not Schedule.WSD:
            return iterations
        return iterations - round(self.decay * iterations)

    def learning_rate(self, iteration: int, iterations: int) -> float:
        """Return the rate of step ``iteration`` (from 0) of ``iterations``; there is no scheduler state.

        Warm-up is linear and reaches the schedule's value at step ``warmup``. ``steps`` multiplies by
        ``gamma`` from each milestone on, as PyTorch's ``MultiStepLR`` does; ``cosine`` falls from ``lr`` to
        ``final * lr`` over the steps after warm-up. ``wsd`` (warm-up, stable, decay) stays at ``lr`` and
        falls to ``final * lr`` over the last ``decay`` of the steps, by one minus the square root of the part
        done: of the shapes that Hägele et al. 2024 (arXiv 2405.18392) compared, the one that ended lowest.
        """
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        if self.schedule is Schedule.CONSTANT:
            return self.lr
        if self.schedule is Schedule.STEPS:
            return self.lr * self.gamma ** bisect_right(self.milestones, iteration)
        begin = self.warmup if self.schedule is Schedule.COSINE else self.decay_begin(iterations)
        done = min(1.0, max(0, iteration - begin) / max(1, iterations - begin))
        if self.schedule is Schedule.COSINE:
            left = 0.5 * (1 + math.cos(math.pi * done))
        else:
            left = 1 - math.sqrt(done)
        return self.lr * (self.final + (1 - self.final) * left)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms that are added up; zero leaves a term out."""

    l1: NotNegative = 1.0
    """Mean absolute error."""
    mse: NotNegative = 0.0
    """Mean squared error."""
    kl: NotNegative = 0.0
    """The paper's stage 2 term: KL(HR || SR) of softmaxes over the colour channels."""
    fft: NotNegative = 0.0
    """Mean absolute error of the two-dimensional Fourier transform, not normalised; 0.05 is usual."""


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Weights at iteration 0, where no others are given; ``revive`` where they are."""

    kind: InitKind = InitKind.DEFAULT
    """``"default"`` (PyTorch's), ``"variance"`` or ``"delta"``; see ``train/init.py``."""
    gate_bias: Annotated[float, Meta(ge=-100, le=100)] = 0.0
    """Bias in front of the sigmoid of channel attention: 2 starts the gates at 0.88 instead of 0.5.
    Not used by ``default``."""
    body: UpTo100 = 0.25
    """Root mean square of what the body adds to the stem at first. The larger, the sooner training finds that
    silencing the body is the quickest way to be rid of its noise. Not used by ``default``."""
    least_squares: bool = False
    """Begin stem and upsampler as the linear 5x5 upsampler with the smallest squared error on training
    patches, instead of as ``kind`` has them. Not with ``default``."""
    revive: bool = False
    """Begin hidden units of CAB anew that the given weights have silent; see ``train/silence.py``."""

    def __post_init__(self) -> None:
        if self.least_squares and self.kind is InitKind.DEFAULT:
            raise ConfigError(
                'init.least_squares needs a quiet body: set init.kind to "delta" or "variance", not "default"'
            )


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Rounding to INT8 while training, so that weights and ranges adapt to it."""

    recipe: str = ""
    """INT8 recipe by name or file, as a build takes it: what it selects is rounded. Empty: nothing is. Needs
    weights to begin with."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. Everything here decides the result; where files lie and on which device does not."""

    name: Annotated[str, Meta(min_length=1)]
    """Name that messages and the checkpoint's provenance use."""
    about: str = ""
    """What the recipe is for, in a sentence."""
    model: ModelSpec = field(default_factory=ModelSpec)
    """The network; the published one unless said otherwise."""
    iterations: Steps = 500_000
    """Optimizer steps."""
    seed: Seed = 0
    """Decides the starting weights, the order of patches and their flips."""
    phases: tuple[Phase, ...] = (Phase(),)
    """Patch and batch sizes over the run, in order."""
    accumulate: Count = 1
    """Forward and backward passes per step; each sees its share of the batch."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How weights move."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the terms that are added up; zero leaves a term out."""
    degradation: Degradation = field(default_factory=Degradation)
    """What is done to LR before the network sees it: nothing, unless ``share`` says otherwise."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """What is done to patches and their LR alike: nothing, unless shares say otherwise."""
    init: InitConfig = field(default_factory=InitConfig)
    """Weights at iteration 0, where none are given."""
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    """Rounding to INT8: none, unless a recipe is named."""
    ema: Fraction = 0.999
    """Decay of the averaged weights, which are what is validated and exported; 0 turns averaging off."""
    ema_warmup: bool = False
    """Let the decay grow as ``(1 + n) / (10 + n)`` first, so that the average forgets the start sooner.
    Off is the published behaviour."""
    autocast: Autocast = Autocast.FP32
    """Number format of the matrix work: ``"fp32"``, ``"bf16"`` or ``"fp16"``."""
    memory_format: MemoryFormat = MemoryFormat.AUTO
    """``"channels_last"``, ``"contiguous"``, or ``"auto"``: the faster one by measurement when the run
    begins; ``run.json`` then holds the one that was found, so that resuming is exact."""
    validate_every: Count = 5000
    """Iterations between validations; the last one always is one."""
    checkpoint_every: Count = 5000
    """Iterations between full states on disk."""
    keep: Count = 3
    """Full states that are kept; those asked for with ``keep_at`` stay besides, the one with the best
    validation, and the one that a ``wsd`` decay began with."""
    keep_at: tuple[Count, ...] = ()
    """Iterations whose state is never deleted: the start of a later stage."""

    def __post_init__(self) -> None:
        self._check_phases()
        self._check_start()
        if self.ema == 1 and not self.ema_warmup:
            raise ConfigError(
                "ema is 1, and the averaged weights would stay those of the start; expected less than 1, or "
                "ema_warmup"
            )
        if self.optimizer.muon and self.autocast is Autocast.FP16:
            raise ConfigError(
                'optimizer.muon with autocast "fp16": gradients that overflow would be skipped by one of two '
                'optimizers; set autocast to "bf16" or "fp32", or muon to false'
            )
        if self.degradation.share and (self.augmentation.negative or self.augmentation.blend):
            raise ConfigError(
                "augmentation.negative and augmentation.blend cannot be combined with degradation: the noise "
                "would not be that of a sensor; set both to 0, or set degradation.share to 0"
            )
        if not (self.loss.l1 or self.loss.mse or self.loss.kl or self.loss.fft):
            raise ConfigError("loss: every term has weight 0; give at least one a positive weight")
        if self.quantize.recipe and self.autocast is not Autocast.FP32:
            raise ConfigError(
                f'autocast is "{self.autocast.value}", and rounding to INT8 (quantize.recipe) needs "fp32"'
            )
        if self.optimizer.milestones != tuple(sorted(self.optimizer.milestones)):
            raise ConfigError("optimizer.milestones must rise")

    def _check_phases(self) -> None:
        bounds = [phase.until for phase in self.phases]
        if not bounds or bounds[-1] != 1.0 or bounds != sorted(set(bounds)):
            raise ConfigError(f"phases.until is {bounds}; expected rising fractions that end with 1.0")
        for phase in self.phases:
            if phase.patch % self.model.scale:
                raise ConfigError(
                    f"phases.patch is {phase.patch}; expected a multiple of model.scale ({self.model.scale})"
                )
            if phase.patch // self.model.scale < self.model.size.minimum:
                raise ConfigError(
                    f"phases.patch is {phase.patch}: the LR patch of {phase.patch // self.model.scale} is "
                    f"below the network's minimum of {self.model.size.minimum}"
                )
            if phase.batch_size % self.accumulate:
                raise ConfigError(
                    f"phases.batch_size {phase.batch_size} is not a multiple of accumulate {self.accumulate}"
                )

    def _check_start(self) -> None:
        if self.model.channels != 3:
            raise ConfigError(
                f"model.channels is {self.model.channels}; expected 3: training images are RGB, and gray is "
                "upscaled as RGB"
            )
        if self.init.least_squares and (side := self.phase(0).patch // self.model.scale) < 5:
            raise ConfigError(
                f"init.least_squares fits 5x5 filters to LR patches of {side} pixels; expected a first phase "
                f"with a patch of {5 * self.model.scale} or more"
            )
        if self.init.least_squares and self.model.features < 9 * self.model.channels:
            raise ConfigError(
                f"init.least_squares needs model.features of {9 * self.model.channels} or more, one for each "
                f"value of a 3x3 neighbourhood; it is {self.model.features}"
            )

    @property
    def kept_always(self) -> tuple[int, ...]:
        """Iterations after which the state is saved and never deleted."""
        begin = self.optimizer.decay_begin(self.iterations)
        return (*self.keep_at, begin) if begin < self.iterations else self.keep_at

    def patches(self, shards: Sequence[Shards]) -> PatchSource:
        """Return the patches of a run on ``shards``."""
        return PatchSource(
            shards, seed=self.seed, degradation=self.degradation, augmentation=self.augmentation
        )

    def learning_rate(self, iteration: int) -> float:
        """Return the rate of step ``iteration`` (from 0)."""
        return self.optimizer.learning_rate(iteration, self.iterations)

    def phase(self, iteration: int) -> Phase:
        """Return the phase that ``iteration`` (from 0) belongs to."""
        return next(p for p in self.phases if iteration < round(p.until * self.iterations))


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that ship, sorted."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_recipe(
    name: str, overrides: Iterable[str] = (), *, iterations: int | None = None, label: str = "override"
) -> Recipe:
    """Load a recipe by name or from a TOML file.

    Args:
        name: Name of a recipe that ships, or a path that ends in ``.toml``.
        overrides: ``"key=value"`` settings that win over the file. Another ``model.scale`` changes the name.
        iterations: End here; warm-up and milestones move with it unless ``overrides`` set them.
        label: What messages call an override.

    Raises:
        ConfigError: no such recipe, or see :func:`hasn_edge.config.load_config`.
    """
    if not name.endswith(".toml") and name not in recipe_names():
        raise ConfigError(
            f"no recipe called {name!r}; those that ship: {', '.join(recipe_names())}; or give a .toml file"
        )
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    overrides = tuple(overrides)
    recipe = load_config(path, Recipe, overrides, label=label)
    given = {text.partition("=")[0].strip() for text in overrides}
    if "model.scale" in given and "name" not in given:
        recipe = replace(recipe, name=_name_of_scale(recipe.name, load_config(path, Recipe), recipe.model))
    if iterations is None or iterations == recipe.iterations:
        return recipe
    part, optimizer = iterations / recipe.iterations, recipe.optimizer
    if "optimizer.warmup" not in given:
        optimizer = replace(optimizer, warmup=round(optimizer.warmup * part))
    if "optimizer.milestones" not in given:
        optimizer = replace(optimizer, milestones=tuple(round(m * part) for m in optimizer.milestones))
    return replace(recipe, iterations=iterations, optimizer=optimizer)


def _name_of_scale(name: str, before: Recipe, model: ModelSpec) -> str:
    """Return a recipe's name with another scale in it, where ``before`` had another: files are called so."""
    old, new = f"x{before.model.scale}", f"x{model.scale}"
    if old == new:
        return name
    changed = re.sub(rf"(?<![0-9A-Za-z]){old}(?![0-9A-Za-z])", new, name)
    return changed if changed != name else f"{name}-{new}"
