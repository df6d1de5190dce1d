"""The counter-based generator against plain Python integers, and its distributions."""

import hashlib

import mpmath
import torch

from trainer.exact import normal_f32, uniform_bits, uniform_f32

MASK = (1 << 64) - 1


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def words(seed: bytes, stream: str, count: int) -> list[int]:
    message = b"proofswarm/rng/1" + len(seed).to_bytes(8, "little") + seed + stream.encode()
    digest = hashlib.sha256(message).digest()
    first, second = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    return [mix(mix((first + i * 0x9E3779B97F4A7C15) & MASK) ^ second) for i in range(count)]


def test_the_finaliser_is_splitmix64() -> None:
    # First outputs of SplitMix64 started at 0, as published with its reference implementation.
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert mix((2 * 0x9E3779B97F4A7C15) & MASK) == 0x6E789E6AA1B965F4


def test_words_follow_the_definition() -> None:
    wanted = words(b"seed", "layer", 300)
    assert [w & MASK for w in uniform_bits(b"seed", "layer", 300).tolist()] == wanted
    assert [w & MASK for w in uniform_bits(b"seed", "layer", 40, start=100).tolist()] == wanted[100:140]
    assert uniform_bits(b"", "", 0).shape == (0,)


def test_seed_and_stream_do_not_run_together() -> None:
    streams = [uniform_bits(s, n, 4).tolist() for s, n in ((b"ab", "c"), (b"a", "bc"), (b"abc", ""))]
    assert len({tuple(s) for s in streams}) == 3


def test_uniform_numbers() -> None:
    x = uniform_f32(b"u", "x", (100, 200))
    wanted = [(w >> 40) / 2**24 for w in words(b"u", "x", 50)]
    assert x.flatten()[:50].tolist() == wanted
    assert x.min() >= 0.0 and x.max() < 1.0 and abs(x.mean().item() - 0.5) < 0.01


def test_normal_numbers_follow_the_definition() -> None:
    z = normal_f32(b"n", "w", (500,), 0.02).tolist()
    pairs = words(b"n", "w", 1000)
    for i in range(500):
        u = mpmath.mpf((pairs[2 * i] >> 11) + 1) / 2**53
        v = mpmath.mpf(pairs[2 * i + 1] >> 11) / 2**53
        true = mpmath.sqrt(-2 * mpmath.log(u)) * mpmath.cos(2 * mpmath.pi * v) * 0.02
        assert abs(z[i] - true) <= abs(true) * 2.0**-23.9


def test_normal_numbers_have_the_right_moments() -> None:
    z = normal_f32(b"n", "moments", (300, 700))
    assert z.shape == (300, 700) and z.dtype == torch.float32
    assert abs(z.mean().item()) < 0.01 and abs(z.std().item() - 1) < 0.01
    assert abs((z**4).mean().item() - 3) < 0.1
    assert torch.equal(z.flatten()[:1000], normal_f32(b"n", "moments", (1000,)))
