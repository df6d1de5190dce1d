/* Exact products of int16 matrices: pairs of products summed in int32, emptied before they can overflow, and scaled
   and rounded to float32 once. Compiled on the machine that runs it (c_product.py) and certified there before use. */
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512BW__) || defined(WIDE_TILES) /* WIDE_TILES: tests try the widest tiles on any processor */
enum { LANES = 16, ROWS = 12 };
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 6 };
#elif defined(__aarch64__)
enum { LANES = 4, ROWS = 8 };
#else
enum { LANES = 4, ROWS = 6 };
#endif
enum { COLUMNS = 2 * LANES };

/* A share of the second cache level. */
static const int64_t tile_rows = ROWS, tile_columns = COLUMNS, cached_bytes = 1 << 17;

typedef int32_t ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Two numbers of one row in the order of memory. */
static inline int32_t pair(int16_t even, int16_t odd) {
    const int16_t both[2] = {even, odd};
    int32_t result;
    memcpy(&result, both, sizeof result);
    return result;
}

/* Lay `count` rows, `width` at a time, as [panel][pair][row]; what is missing is zero. */
static void pack(const operand *from, const int16_t *start, int64_t count, int64_t length, int64_t width,
                 int32_t *to) {
    int64_t row = from->outer, depth = from->depth, pairs = (length + 1) / 2, whole = length / 2;
    for (int64_t first = 0; first < count; first += width, start += width * row, to += pairs * width) {
        int64_t present = at_most(width, count - first);
        if (present < width) memset(to, 0, pairs * width * sizeof *to);
        for (int64_t r = 0; depth == 1 && r < present; r++)
            for (int64_t p = 0; p < whole; p++) memcpy(to + p * width + r, start + r * row + 2 * p, sizeof *to);
        for (int64_t p = 0; depth != 1 && p < whole; p++) {
            const int16_t *even = start + 2 * p * depth, *odd = even + depth;
            if (row == 1 && present == COLUMNS) /* the common case, in a form that compilers vectorise */
                for (int64_t r = 0; r < COLUMNS; r++) to[p * COLUMNS + r] = pair(even[r], odd[r]);
            else
                for (int64_t r = 0; r < present; r++) to[p * width + r] = pair(even[r * row], odd[r * row]);
        }
        for (int64_t r = 0; length % 2 && r < present; r++)
            to[whole * width + r] = pair(start[r * row + (length - 1) * depth], 0);
    }
}

#if defined(__aarch64__) && !defined(WIDE_TILES)
#define BY_LANES
/* One pair of ROWS rows by COLUMNS columns: even by even numbers and odd by odd, each a product by one lane. */
static inline void add_pair(ints sums[ROWS][2], const int32_t *left, const int32_t *right) {
    int16x8_t first = vld1q_s16((const int16_t *)right), second = vld1q_s16((const int16_t *)right + 8);
    int16x8_t even = vuzp1q_s16(first, second), odd = vuzp2q_s16(first, second);
#define ROW(i, rows, pair)                                                                     \
    sums[i][0] = vmlal_laneq_s16(sums[i][0], vget_low_s16(even), rows, 2 * (pair));            \
    sums[i][1] = vmlal_high_laneq_s16(sums[i][1], even, rows, 2 * (pair));                     \
    sums[i][0] = vmlal_laneq_s16(sums[i][0], vget_low_s16(odd), rows, 2 * (pair) + 1);         \
    sums[i][1] = vmlal_high_laneq_s16(sums[i][1], odd, rows, 2 * (pair) + 1);
    int16x8_t upper = vld1q_s16((const int16_t *)left), lower = vld1q_s16((const int16_t *)left + 8);
    ROW(0, upper, 0)
    ROW(1, upper, 1)
    ROW(2, upper, 2)
    ROW(3, upper, 3)
    ROW(4, lower, 0)
    ROW(5, lower, 1)
    ROW(6, lower, 2)
    ROW(7, lower, 3)
#undef ROW
}
#else
/* sum + even(a) * even(b) + odd(a) * odd(b) in every lane. */
static inline ints dot(ints sum, ints a, ints b) {
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && !defined(WIDE_TILES)
    return sum + (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
#endif

/* high * 2^16 + low = the product of one panel of each side. A sum enters each run of `flush` pairs as 0..2^16-1, its
   upper half moved to `high`, so that no run overflows. */
static void tile(const int32_t *left, const int32_t *right, int64_t pairs, int64_t flush, int32_t *high,
                 int32_t *low) {
    ints sums[ROWS][2] = {{{0}}};
    memset(high, 0, sizeof *high * ROWS * COLUMNS);
    for (int64_t p = 0; p < pairs;) {
        for (int64_t stop = at_most(p + flush, pairs); p < stop; p++) {
#if defined(BY_LANES)
            add_pair(sums, left + p * ROWS, right + p * COLUMNS);
#else
            const ints *b = (const ints *)(right + p * COLUMNS);
            ints b0 = b[0], b1 = b[1];
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; i++) {
                ints a = left[p * ROWS + i] - (ints){0};
                sums[i][0] = dot(sums[i][0], a, b0);
                sums[i][1] = dot(sums[i][1], a, b1);
            }
#endif
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) {
            ints *h = (ints *)(high + i * COLUMNS);
            h[0] += sums[i][0] >> 16;
            h[1] += sums[i][1] >> 16;
            sums[i][0] &= 0xFFFF;
            sums[i][1] &= 0xFFFF;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
        ints *l = (ints *)(low + i * COLUMNS);
        l[0] = sums[i][0];
        l[1] = sums[i][1];
    }
}

static void write_tile(const task *t, const int32_t *high, const int32_t *low, int64_t matrix, int64_t row,
                       int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row);
    for (int64_t i = 0; i < rows; i++, high += COLUMNS, low += COLUMNS) {
        double sums[COLUMNS];
        for (int64_t j = 0; j < COLUMNS; j++) sums[j] = high[j] * 65536.0 + low[j];
        write_row(t, matrix, row + i, column, sums, COLUMNS);
    }
}

static int64_t row_bytes(const task *t) { return (t->depth + 1) / 2 * 4; }

static int64_t column_bytes(const task *t) { return row_bytes(t); }

static int64_t work_bytes(const task *t, int64_t rows) { return rows * row_bytes(t); }

static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, void *packed) {
    const int16_t *start = t->right.start + matrix * t->right.batch + first * t->right.outer;
    pack(&t->right, start, count, t->depth, COLUMNS, (int32_t *)packed + first * ((t->depth + 1) / 2));
}

static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const void *packed, void *work) {
    int64_t pairs = (t->depth + 1) / 2;
    const int32_t *left = work, *right = packed;
    int32_t high[ROWS * COLUMNS], low[ROWS * COLUMNS];
    pack(&t->left, t->left.start + matrix * t->left.batch + first * t->left.outer, count, t->depth, ROWS, work);
    for (int64_t column = 0; column < t->columns; column += COLUMNS)
        for (int64_t row = 0; row < count; row += ROWS) {
            tile(left + row * pairs, right + column * pairs, pairs, t->run / 2, high, low);
            write_tile(t, high, low, matrix, first + row, column);
        }
}
