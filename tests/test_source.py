"""Rules of the house that are read off the source: what import-linter and ruff cannot say."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.source import imported, parsed

TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli", "poisson"}
TENSOR_DRAWS = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "normal_",
    "random_",
    "uniform_",
}
NO_GENERATOR_POSSIBLE = {"rand_like", "randn_like", "randint_like", "manual_seed", "seed", "initial_seed"}
SEEDED = {"default_rng", "Generator", "PCG64", "Philox", "RandomState", "SeedSequence"}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain; the part that is no name is left empty."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def global_draws(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that draw from, or seed, a generator shared by the whole process."""
    for line, module in imported(tree):
        if module == "random":
            yield line, "import random"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        owner, _, function = name.rpartition(".")
        keywords = {keyword.arg for keyword in node.keywords}
        seeded = "generator" in keywords
        if owner in ("np.random", "numpy.random"):
            seeded = function in SEEDED and bool(node.args or node.keywords)
            if not seeded:
                yield node.lineno, name
        elif owner == "torch" and (function in NO_GENERATOR_POSSIBLE or (function in TORCH_DRAWS and not seeded)):
            yield node.lineno, name
        elif owner in ("torch.nn.init", "nn.init", "init") and function.endswith("_"):
            if not seeded and function not in ("constant_", "zeros_", "ones_", "eye_", "dirac_"):
                yield node.lineno, name
        elif function in TENSOR_DRAWS and not seeded:
            yield node.lineno, name


def test_the_library_never_draws_from_a_global_generator() -> None:
    found = [f"{path}:{line} {call}" for path, tree in parsed("worker/rl") for line, call in global_draws(tree)]
    assert not found, "a run would depend on its neighbours: draw from Noise or a generator of its own"


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("torch.rand(3)", True),
        ("torch.rand(3, generator=g)", False),
        ("torch.randn_like(x)", True),
        ("x.normal_()", True),
        ("x.normal_(generator=g)", False),
        ("torch.nn.init.orthogonal_(w)", True),
        ("torch.nn.init.zeros_(w)", False),
        ("np.random.uniform()", True),
        ("np.random.default_rng()", True),
        ("np.random.default_rng(7)", False),
        ("noise.normal('action', 3)", False),
        ("import random", True),
        ("from random import choice", True),
        ("torch.manual_seed(0)", True),
    ],
)
def test_the_rule_on_draws_catches_what_it_should(source: str, caught: bool) -> None:
    assert bool(list(global_draws(ast.parse(source)))) is caught


def test_schemas_import_only_pydantic_and_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"pydantic", "pydantic_core"}
    for path, tree in parsed("app/schemas"):
        for line, module in imported(tree):
            fits = module.split(".")[0] in allowed or module == "app.schemas" or module.startswith("app.schemas.")
            assert fits, f"{path}:{line} imports {module}"
