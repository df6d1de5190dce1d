"""Arithmetic whose results do not depend on the machine: see each module."""

from trainer.exact.backends import BACKENDS, TRUSTED
from trainer.exact.certificate import certify
from trainer.exact.checks import require_finite, require_subnormals
from trainer.exact.choice import Products
from trainer.exact.errors import BackendFault, NonFinite
from trainer.exact.functions import (
    cos,
    divide,
    erf,
    exp,
    log,
    reciprocal,
    rsqrt,
    sigmoid,
    sin,
    sqrt,
    tanh,
)
from trainer.exact.powers import pow
from trainer.exact.product import integer_product, product, scaled
from trainer.exact.quantise import quantise, row_exponent
from trainer.exact.rng import normal_f32, uniform_bits, uniform_f32
from trainer.exact.sums import (
    exact_mean,
    exact_sum,
    fixed_point_scatter,
    fixed_point_sum,
    largest_exponent,
    rounded_sum,
    scatter_sum,
)

__all__ = [
    "BACKENDS",
    "TRUSTED",
    "BackendFault",
    "NonFinite",
    "Products",
    "certify",
    "cos",
    "divide",
    "erf",
    "exact_mean",
    "exact_sum",
    "exp",
    "fixed_point_scatter",
    "fixed_point_sum",
    "integer_product",
    "largest_exponent",
    "log",
    "normal_f32",
    "pow",
    "product",
    "quantise",
    "reciprocal",
    "require_finite",
    "require_subnormals",
    "rounded_sum",
    "row_exponent",
    "rsqrt",
    "scaled",
    "scatter_sum",
    "sigmoid",
    "sin",
    "sqrt",
    "tanh",
    "uniform_bits",
    "uniform_f32",
]
