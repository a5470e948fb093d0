"""What each step of a study takes: one model a step, shared by Python and by experiment files."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from manynet import references
from manynet.errors import InvalidValue, ManynetError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Scalar = bool | int | float | str
Reference = Annotated[str, AfterValidator(references.canonical)]
"""``module:name`` in its one spelling, so that a study resumes in any folder."""


class Role(Enum):
    """What a setting decides. It stands in the field's annotation; a field without one decides the result."""

    RESULT = "the result"
    SCORE = "the score of each candidate, and so the result"
    EFFORT = "how much is done, and on what"
    TELLING = "who is notified"

    @property
    def fixed(self) -> bool:
        """Whether a step that has begun refuses another value."""
        return self in (Role.RESULT, Role.SCORE)


class SettingsError(ManynetError, ValueError):
    """A step was given an unknown argument, or a value that is not allowed."""


class Settings(BaseModel):
    """Base of all settings: unknown names and wrong values are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def step(cls) -> str:
        """Name of the step, as an experiment file spells it: ``train``, ``search`` or ``finalists``."""
        return cls.__name__.removesuffix("Settings").lower()

    @classmethod
    def checked(cls, given: dict[str, Any]) -> Any:
        """Validate ``given``; raise one line that names the key, the value and what is allowed.

        Raises:
            SettingsError: for the first argument that is wrong.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            takes = f"{cls.step()} takes {', '.join(cls.model_fields)}"
            raise SettingsError(InvalidValue.first(error, cls.step()).line(takes)) from None

    @classmethod
    def role(cls, name: str) -> Role:
        """What the setting ``name`` decides."""
        marks = [mark for mark in cls.model_fields[name].metadata if isinstance(mark, Role)]
        return marks[0] if marks else Role.RESULT

    @classmethod
    def adjustable(cls) -> list[str]:
        """Names of the settings that a step may go on with other values of."""
        return [name for name in cls.model_fields if not cls.role(name).fixed]

    @property
    def fixed(self) -> dict[str, Any]:
        """All that decides the result, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.adjustable()))

    def of(self, role: Role) -> dict[str, Any]:
        """The settings of one role, as JSON values."""
        return {
            name: value for name, value in self.model_dump(mode="json").items() if self.role(name) is role
        }


class Recipe(Settings):
    """How a network is trained."""

    strategy: Reference = Field(description="which architectures a step trains, and the loss")
    strategy_options: dict[str, Scalar] = Field(default_factory=dict, description="arguments of the strategy")
    steps: PositiveInt = Field(1000, description="optimizer steps")
    batch_size: PositiveInt = Field(64, description="examples a step, over all workers together")
    workers: Annotated[NonNegativeInt, Role.EFFORT] = Field(
        1, description="Ray Train workers; 0 trains in the driver's process, which starts at once"
    )
    threads: Annotated[PositiveInt, Role.EFFORT] = Field(1, description="CPU threads a worker")
    optimizer: Literal["adamw", "adagrad"] = Field(
        "adamw", description="of all but embedding tables, which always learn by Adagrad"
    )
    learning_rate: PositiveFloat = Field(1e-3, description="peak of the cosine schedule")
    embedding_learning_rate: PositiveFloat | None = Field(
        None, description="peak for embedding tables; None is learning_rate"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="of AdamW")
    warmup: Fraction = Field(0.1, description="share of the steps over which the learning rate rises")
    gradient_clip: Annotated[float, Field(ge=0)] = Field(
        1.0, description="largest gradient norm; 0 is no limit"
    )
    ema: Fraction = Field(0.99, description="decay of the moving average of weights; 0 is none")
    label_smoothing: Fraction | None = Field(
        None, description="share of the target spread over all classes; None is the task's own"
    )
    augment: Literal["none", "shift", "shift+flip"] = Field(
        "shift", description="random shifts and flips of images"
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto is bf16 where the device has it"
    )
    evaluate_every: Annotated[PositiveInt, Role.EFFORT] = Field(
        200, description="steps between validations of the largest and smallest subnet"
    )
    checkpoint_every: Annotated[PositiveInt, Role.EFFORT] = Field(
        200, description="steps between checkpoints"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of every random draw in training")

    def training(self, **changes: Any) -> TrainSettings:
        """The recipe alone, with ``changes``."""
        return TrainSettings(**{name: getattr(self, name) for name in Recipe.model_fields} | changes)


class TrainSettings(Recipe):
    """How shared weights are trained."""

    strategy: Reference = Field(
        "manynet.trainers.sandwich:Sandwich", description="which architectures a step trains, and the loss"
    )


class SearchSettings(Settings):
    """What is searched for, and how."""

    objectives: list[str] | None = Field(
        None,
        min_length=1,
        description="<column>:max or <column>:min; default: the task's metric and latency@host/torch",
    )
    constraints: list[str] = Field(
        default_factory=list, description="<column> <op> <number>, e.g. parameters <= 1e6"
    )
    evaluations: Annotated[PositiveInt, Role.EFFORT] = Field(
        200, description="distinct architectures to evaluate"
    )
    sampler: Reference = Field("nsga2", description="a name in manynet.samplers, or module:name")
    sampler_options: dict[str, Scalar] = Field(default_factory=dict, description="arguments of the sampler")
    evaluators: Annotated[PositiveInt, Role.EFFORT] = Field(
        2, description="candidates evaluated side by side"
    )
    batch_size: Annotated[PositiveInt, Role.SCORE] = Field(
        256, description="examples a forward pass of an evaluation"
    )
    calibration_batches: Annotated[int, Field(ge=0), Role.SCORE] = Field(
        8, description="training batches that renew a candidate's batch-norm statistics"
    )
    finetune_steps: Annotated[int, Field(ge=0), Role.SCORE] = Field(
        0, description="steps that a candidate's last layer learns, on a copy, before it is scored"
    )
    finetune_learning_rate: Annotated[PositiveFloat, Role.SCORE] = Field(
        0.04, description="of those steps; constant, Adagrad"
    )
    validation_examples: Annotated[PositiveInt, Role.SCORE] = Field(
        10_000, description="examples of the validation split scored, at most"
    )
    isolate: Annotated[bool, Role.SCORE] = Field(
        False, description="keep cores for measurements, so that evaluators run on the others and do not wait"
    )
    prediction_deviation: PositiveFloat = Field(
        0.1,
        description="share by which a predicted latency may deviate (one standard deviation) and not be measured",
    )
    tables: dict[str, str] = Field(
        default_factory=dict,
        description="address of the latency table of each device with source=table",
    )
    trackers: Annotated[list[str], Role.TELLING] = Field(
        default_factory=list,
        description="mlflow, mlflow:ADDRESS, wandb, wandb:PROJECT: log each candidate",
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the sampler")


class FinalistsSettings(Recipe):
    """How winners are trained further, and how many anchors are trained alone to judge the ranking."""

    strategy: Reference = Field(
        "manynet.trainers.finetune:FineTune", description="how a finalist is trained further"
    )
    steps: PositiveInt = Field(500, description="optimizer steps a finalist")
    learning_rate: PositiveFloat = Field(3e-4, description="peak of a finalist's cosine schedule")
    count: Annotated[PositiveInt, Role.EFFORT] = Field(
        3, description="finalists, spread over the Pareto front"
    )
    start: Literal["shared", "random"] = Field(
        "shared", description="weights a finalist starts from: the supernet's, or random ones"
    )
    where: str = Field("", description="limits on finalists, e.g. latency@host/torch <= 5")
    anchors: Annotated[int, Field(ge=0), Role.EFFORT] = Field(
        8, description="subnets trained alone to judge the ranking; 0 is none"
    )
    anchor_steps: PositiveInt = Field(500, description="optimizer steps an anchor, from random weights")
    anchor_learning_rate: PositiveFloat = Field(1e-3, description="peak of an anchor's cosine schedule")

    @property
    def finalist(self) -> TrainSettings:
        """How a finalist is trained further."""
        return self.training()

    @property
    def anchor(self) -> TrainSettings:
        """How an anchor is trained alone: as a finalist, but from random weights and with its own budget."""
        return self.training(steps=self.anchor_steps, learning_rate=self.anchor_learning_rate)
