"""The examples of the API: stories, each told to a server that is empty at first, and what it answered.

A story is a JSON file in `stories/`: a list of steps, each of which is one request, given by its route's name
and its parameters. Whoever adds a route adds a step without `status` and `answer`; `make examples` tells the
stories to a server and fills these in, and tests tell them again and compare. `/hoody/databases` stands for
the data dir, wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import orjson

DATA_DIR: Final = "/hoody/databases"
FOLDER: Final[Traversable] = resources.files("server.openapi") / "stories"


@dataclass(frozen=True, slots=True)
class Step:
    """One request, and the answer to it.

    `params` are texts by name, whatever their place; one may be `{"answer": route, "at": [field, …]}`, which
    is what the last answer of that route has there, or `{"etag": route}`, its ETag. A key is written as in a
    path. `body` is JSON, or text where the route takes anything; so is `answer`, None where there is no body.
    `files` are laid into the data dir before: contents by path. Where `shown` is false, the answer is too
    long to be an example.
    """

    title: str
    route: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    files: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    etag: str | None = None
    answer: Any = None
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A step with its parameters as they were sent."""

    step: Step
    params: Mapping[str, str]


def stories() -> dict[str, list[Step]]:
    """The steps of each story, by its name."""
    files = sorted(FOLDER.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".json"): [Step(**step) for step in orjson.loads(file.read_bytes())]
        for file in files
    }


def examples() -> Iterator[Example]:
    """All steps of all stories, but for those that no server has answered yet."""
    for steps in stories().values():
        told: dict[str, Step] = {}
        for step in steps:
            if step.status:
                yield Example(step, resolved(step, told))
                told[step.route] = step


def resolved(step: Step, told: Mapping[str, Step]) -> dict[str, str]:
    """The step's parameters as texts, given the last step of each route before it."""
    return {name: _text(param, told) for name, param in step.params.items()}


def _text(param: Any, told: Mapping[str, Step]) -> str:
    if isinstance(param, str):
        return param
    if "etag" in param:
        return str(told[param["etag"]].etag)
    return str(reduce(lambda part, at: part[at], param["at"], told[param["answer"]].answer))
