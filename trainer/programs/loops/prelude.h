/* What the generated loops call. Strict IEEE 754: compiled without any relaxation of floating point, so every line is one
   operation with one result. Constants (LOG2_E, QUARTER_EXP2 ...) come from trainer/exact/cores.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* No buffer that a loop writes overlaps another of its buffers, which compilers do not take from pointers that a loop
   computes: gcc left every loop over more than a few buffers without vectors. */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

INLINE int32_t bits32(float x) { int32_t b; memcpy(&b, &x, 4); return b; }
INLINE float float_of(int32_t b) { float x; memcpy(&x, &b, 4); return x; }
INLINE int64_t bits64(double x) { int64_t b; memcpy(&b, &x, 8); return b; }
INLINE double double_of(int64_t b) { double x; memcpy(&x, &b, 8); return x; }

/* 1.5 * 2^52 and 1.5 * 2^23: adding one rounds to an integer, half to even, and leaves it in the low bits. */
#define MAGIC 6755399441055744.0
#define MAGIC_BITS 0x4338000000000000LL
#define MAGIC32 12582912.0f
#define MAGIC32_BITS 0x4b400000

#define INFINITE 0x7f800000

INLINE int32_t magnitude(float x) { return bits32(x) & 0x7fffffff; }
INLINE int infinite(float x) { return (bits32(x) & INFINITE) == INFINITE; }
INLINE double power_of_two(int64_t e) { return double_of((e + 1023) << 52); }
INLINE float power_of_two32(int32_t e) { return float_of((e + 127) << 23); }

/* The e with 2^(e-1) <= m < 2^e of a finite magnitude given by its bits; -148 for zero. */
INLINE int32_t exponent_of(int32_t m) {
  int32_t wide = (int32_t)(bits64((double)float_of(m)) >> 52) - 1022;
  return wide < -148 ? -148 : wide;
}

/* Two factors, since 2^(bits-1-e) alone may exceed float32; what the first makes subnormal rounds to 0 in the end.
   Clamped as an integer, for which vectors have one instruction where floats need a comparison, too. */
INLINE int16_t quantise(float x, int32_t e, int32_t bits, int32_t limit) {
  int32_t k = bits - 1 - e, half = k >> 1;
  float v = x * power_of_two32(half) * power_of_two32(k - half);
  int32_t q = bits32(v + MAGIC32) - MAGIC32_BITS;
  q = q > limit ? limit : q;
  return (int16_t)(q < -limit ? -limit : q);
}

/* Floats in the order of integers; NaN is for the caller to see. */
INLINE int32_t ordered(float x) { int32_t b = bits32(x); return b ^ ((b >> 31) & 0x7fffffff); }
INLINE float unordered(int32_t b) { return float_of(b ^ ((b >> 31) & 0x7fffffff)); }

INLINE float clamped(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

INLINE double exp2_core(double t) {
  double k = t + MAGIC, f = t - (k - MAGIC), p = HORNER_QUARTER_EXP2(f);
  p *= p;
  p *= p;
  return double_of(bits64(p) + (bits64(k) << 52));
}

INLINE double exp2_minus_1_core(double t) {
  double k = t + MAGIC, f = t - (k - MAGIC), p = HORNER_EXP2_MINUS_1(f) * f;
  double power = double_of((bits64(k) << 52) + 0x3FF0000000000000LL);
  return p * power + (power - 1.0);
}

INLINE double log_core(double m) {
  int64_t k = (bits64(m) - 0x3FE6A09E667F3BCDLL) >> 52;
  double r = double_of(bits64(m) - (k << 52));
  double s = (r - 1.0) / (r + 1.0), y = s * s;
  return (HORNER_LOG_TAIL(y) * y + 2.0) * s + (double)k * LN_2;
}

INLINE double sine_core(double x, double shift, double magic) {
  double k = (x * INVERSE_PI - shift) + magic, h = (k - magic) + shift;
  x -= h * PI_PIECE_0;
  x -= h * PI_PIECE_1;
  x -= h * PI_PIECE_2;
  double y = x * x, s = HORNER_SINE(y) * x;
  return double_of(bits64(s) ^ (bits64(k) << 63));
}

INLINE float exp_f(float x) { return (float)exp2_core((double)clamped(x, -104.0f, 89.0f) * LOG2_E); }

INLINE float sigmoid_f(float x) {
  return (float)(1.0 / (exp2_core((double)clamped(x, -105.0f, 105.0f) * -LOG2_E) + 1.0));
}

INLINE float tanh_f(float x) {
  double p = exp2_minus_1_core((double)clamped(x, -20.0f, 20.0f) * (2.0 * LOG2_E));
  return (float)(p / (p + 2.0));
}

INLINE float erf_f(float x) {
  double t = (double)clamped(x, -ERF_LIMIT_F, ERF_LIMIT_F), y = t * t;
  return (float)(HORNER_ERF_ABOVE(y) * t / HORNER_ERF_BELOW(y));
}

INLINE float log_f(float x) {
  float v = (float)log_core((double)x);
  v = x == INFINITY ? x : v;
  v = x == 0.0f ? -INFINITY : v;
  return x >= 0.0f ? v : NAN;
}

INLINE float sin_f(float x) { return fabsf(x) <= 0x1p20f ? (float)sine_core((double)x, 0.0, MAGIC) : NAN; }
INLINE float cos_f(float x) { return fabsf(x) <= 0x1p20f ? (float)sine_core((double)x, 0.5, MAGIC + 1.0) : NAN; }
INLINE float rsqrt_f(float x) { return (float)(1.0 / sqrt((double)x + 0.0)); }

/* Scales of a product's rows or columns from their exponents: [batch, count] of 2^(e - (bits - 1)), dense. */
void scales(const int16_t *restrict e, long batch, long count, long batch_stride, long stride, int bits,
            double *restrict to) {
  for (long i = 0; i < batch; i++)
    for (long j = 0; j < count; j++) to[i * count + j] = power_of_two(e[i * batch_stride + j * stride] - (bits - 1));
}
