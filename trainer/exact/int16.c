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
/* WIDE_ROWS: whole vectors that hold ROWS. RUN: pairs of 14-bit numbers after which sums are emptied. */
enum { COLUMNS = 2 * LANES, WIDE_ROWS = (ROWS + LANES - 1) / LANES * LANES, RUN = 16 };

/* A share of the second cache level. */
static const int64_t tile_rows = ROWS, tile_columns = COLUMNS, cached_bytes = 1 << 17;

typedef int32_t ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Two numbers of one row as they lie in memory, the lowest byte first. */
static inline int32_t pair(int16_t even, int16_t odd) { return (uint16_t)even | (int32_t)odd << 16; }

/* Pairs of rows that lie side by side, in a form that compilers vectorise. */
static inline void pack_pairs(const int16_t *even, const int16_t *odd, int width, int32_t *to) {
    for (int r = 0; r < width; r++) to[r] = pair(even[r], odd[r]);
}

/* Lay `count` rows, `width` at a time, as [panel][pair][row]; what is missing is zero. Whole vectors of rows that lie
   side by side end in the next pair or panel, which comes after. */
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
            if (row == 1 && present == COLUMNS)
                pack_pairs(even, odd, COLUMNS, to + p * COLUMNS);
            else if (row == 1 && width == ROWS && count - first >= WIDE_ROWS)
                pack_pairs(even, odd, WIDE_ROWS, to + p * ROWS);
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

#define INLINE static inline __attribute__((always_inline))

INLINE void add_pairs(ints sums[ROWS][2], const int32_t *left, const int32_t *right, const int64_t pairs) {
#pragma GCC unroll 4
    for (int64_t p = 0; p < pairs; p++) {
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
}

/* Move the upper halves of sums to `high`, so that 0..2^16-1 is left of each. */
INLINE void empty(ints sums[ROWS][2], ints high[ROWS][2]) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
        high[i][0] += sums[i][0] >> 16;
        high[i][1] += sums[i][1] >> 16;
        sums[i][0] &= 0xFFFF;
        sums[i][1] &= 0xFFFF;
    }
}

/* Put the whole sums into `low` and return 1, or return 0 where one of them exceeds int32. */
static int joined(ints high[ROWS][2], ints low[ROWS][2]) {
    ints lost = {0};
    for (int i = 0; i < 2 * ROWS; i++) {
        ints h = high[i / 2][i % 2], l = low[i / 2][i % 2];
        lost |= (h + (l >> 16)) ^ ((h << 16) + l) >> 16;
    }
    for (int i = 0; i < LANES; i++)
        if (lost[i]) return 0;
    for (int i = 0; i < 2 * ROWS; i++) low[i / 2][i % 2] += high[i / 2][i % 2] << 16;
    return 1;
}

/* The product of one panel of each side: in `low` alone where int32 holds all of it, and then returns 1; else
   high * 2^16 + low. `flush`: pairs that may be added before the sums are emptied. */
static int tile(const int32_t *left, const int32_t *right, int64_t pairs, int64_t flush, ints high[ROWS][2],
                ints low[ROWS][2]) {
    ints sums[ROWS][2] = {{{0}}};
    int64_t p = 0;
    memset(high, 0, sizeof sums);
    for (; flush == RUN && p + RUN < pairs; p += RUN) { /* the usual one, without a branch that is hard to foresee */
        add_pairs(sums, left + p * ROWS, right + p * COLUMNS, RUN);
        empty(sums, high);
    }
    for (; p + flush < pairs; p += flush) {
        add_pairs(sums, left + p * ROWS, right + p * COLUMNS, flush);
        empty(sums, high);
    }
    add_pairs(sums, left + p * ROWS, right + p * COLUMNS, pairs - p);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
        low[i][0] = sums[i][0];
        low[i][1] = sums[i][1];
    }
    return !p || joined(high, low);
}

/* Bring the cache lines of a tile's way out near, or its rows, which lie far apart, would be waited for. */
static void await_rows(const task *t, int64_t matrix, int64_t row, int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row), place = (matrix * t->rows + row) * t->columns + column;
    for (int64_t i = 0; i < rows; i++, place += t->columns)
        __builtin_prefetch(t->exact ? (void *)(t->exact + place) : (void *)(t->scaled + place), 1);
}

/* Whether float32 scales sums of int32 as float64 does, with one rounding: scales, which are powers of two, and their
   products are normal numbers, and nothing overflows before the last of them. */
static int are_narrow(const double *left, int64_t rows, const double *right, int64_t columns) {
    double least = 1, most = 1;
    int narrow = 1;
    for (int64_t i = 0; i < rows; i++) {
        least = left[i] < least ? left[i] : least;
        most = left[i] > most ? left[i] : most;
    }
    for (int64_t j = 0; j < columns; j++) narrow &= right[j] >= 0x1p-126 / least;
    return narrow && least >= 0x1p-126 && most <= 0x1p96;
}

static void write_low(const task *t, const int32_t *low, int64_t matrix, int64_t row, int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row), columns = at_most(COLUMNS, t->columns - column);
    const double *left = t->left_scale + matrix * t->rows + row, *right = t->right_scale + matrix * t->columns + column;
    int narrow = !t->exact && are_narrow(left, rows, right, columns);
    float *to = t->scaled + (matrix * t->rows + row) * t->columns + column, scales[COLUMNS];
    for (int64_t j = 0; narrow && j < columns; j++) scales[j] = (float)right[j];
    for (int64_t i = 0; i < rows; i++, low += COLUMNS, to += t->columns) {
        double sums[COLUMNS];
        if (!narrow) {
            for (int j = 0; j < COLUMNS; j++) sums[j] = low[j];
            write_row(t, matrix, row + i, column, sums, COLUMNS);
        } else if (columns == COLUMNS) {
            for (int j = 0; j < COLUMNS; j++) to[j] = (float)low[j] * (float)left[i] * scales[j];
        } else {
            for (int j = 0; j < columns; j++) to[j] = (float)low[j] * (float)left[i] * scales[j];
        }
    }
}

static void write_wide(const task *t, const int32_t *high, const int32_t *low, int64_t matrix, int64_t row,
                       int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row);
    for (int64_t i = 0; i < rows; i++, high += COLUMNS, low += COLUMNS) {
        double sums[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) sums[j] = high[j] * 65536.0 + low[j];
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
    ints high[ROWS][2], low[ROWS][2];
    pack(&t->left, t->left.start + matrix * t->left.batch + first * t->left.outer, count, t->depth, ROWS, work);
    for (int64_t column = 0; column < t->columns; column += COLUMNS)
        for (int64_t row = 0; row < count; row += ROWS) {
            await_rows(t, matrix, first + row, column);
            if (tile(left + row * pairs, right + column * pairs, pairs, t->run / 2, high, low))
                write_low(t, (int32_t *)low, matrix, first + row, column);
            else
                write_wide(t, (int32_t *)high, (int32_t *)low, matrix, first + row, column);
        }
}
