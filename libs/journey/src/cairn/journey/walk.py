"""Owns the ways through a journey's message: every step and every criteria with its path, those in branches included."""

from collections.abc import Iterator, Sequence

from cairn.api.definition.v1 import journey_pb2 as pb


def walk_steps(message: pb.Journey) -> Iterator[tuple[str, pb.Step]]:
    """Every step with its path, as `stages[0].steps[1].decision.branches[0].steps[2]`, in order."""
    for index, stage in enumerate(message.stages):
        yield from _walk(f"stages[{index}].steps", stage.steps)


def step_ways(path: str, step: pb.Step) -> Iterator[tuple[str, str, Sequence[pb.Step]]]:
    """The ways of a step that holds steps: the path of its list of steps, the way's name, and the steps."""
    match step.WhichOneof("kind"):
        case "wait":
            yield f"{path}.wait.met", "met", step.wait.met
            yield f"{path}.wait.timed_out", "timed_out", step.wait.timed_out
        case "decision":
            for index, branch in enumerate(step.decision.branches):
                yield f"{path}.decision.branches[{index}].steps", branch.name, branch.steps
            yield f"{path}.decision.otherwise", "otherwise", step.decision.otherwise
        case "experiment":
            for index, variant in enumerate(step.experiment.variants):
                yield f"{path}.experiment.variants[{index}].steps", variant.name, variant.steps
        case _:
            pass


def walk_criteria(message: pb.Journey) -> Iterator[tuple[str, str]]:
    """Every criteria that is given, with its path."""
    for path, source in _criteria(message):
        if source:
            yield path, source


def count_elements(message: pb.Journey) -> int:
    """How many boxes a journey has, whether or not it is valid: the entry criteria, each milestone and each step."""
    return sum(count_stage_elements(stage) for stage in message.stages)


def count_stage_elements(stage: pb.Stage) -> int:
    """How many of these a stage has."""
    return bool(stage.entry) + bool(stage.milestone) + sum(1 for _ in _walk("", stage.steps))


def short_name(collection: str, name: str) -> str:
    """The id in a resource name of a collection: `journeys/welcome` and `welcome` both give `welcome`."""
    return name.removeprefix(f"{collection}/")


def full_name(collection: str, name: str) -> str:
    """`journeys/x` for `x`; a name that is empty or has a collection already is left alone."""
    return f"{collection}/{name}" if name and "/" not in name else name


def _walk(path: str, steps: Sequence[pb.Step]) -> Iterator[tuple[str, pb.Step]]:
    for index, step in enumerate(steps):
        place = f"{path}[{index}]"
        yield place, step
        for inner_path, _, inner in step_ways(place, step):
            yield from _walk(inner_path, inner)


def _criteria(message: pb.Journey) -> Iterator[tuple[str, str]]:
    yield "audience", message.audience
    yield "goal.criteria", message.goal.criteria
    for number, exit in enumerate(message.exit_criteria):
        yield f"exit_criteria[{number}].criteria", exit.criteria
    for index, stage in enumerate(message.stages):
        path = f"stages[{index}]"
        yield f"{path}.entry", stage.entry
        yield f"{path}.milestone", stage.milestone
        for number, exit in enumerate(stage.exit_criteria):
            yield f"{path}.exit_criteria[{number}].criteria", exit.criteria
    for path, step in walk_steps(message):
        match step.WhichOneof("kind"):
            case "wait":
                yield f"{path}.wait.condition", step.wait.condition
            case "decision":
                for index, branch in enumerate(step.decision.branches):
                    yield f"{path}.decision.branches[{index}].criteria", branch.criteria
            case _:
                pass
