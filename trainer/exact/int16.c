/* Exact products of int16 matrices: pairs of products summed in int32, as many as cannot exceed it, and scaled and
   rounded to float32 once. Compiled on the machine that runs it (c_product.py) and certified there before use. */
#include <math.h>
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
/* WIDE_ROWS: whole vectors that hold ROWS. SEGMENT: pairs over which the length of a row is taken. */
enum { COLUMNS = 2 * LANES, WIDE_ROWS = (ROWS + LANES - 1) / LANES * LANES, SEGMENT = 64 };

/* A share of the second cache level. */
static const int64_t tile_rows = ROWS, tile_columns = COLUMNS, cached_bytes = 1 << 17;

#define INLINE static inline __attribute__((always_inline))

typedef int32_t ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

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

const char *instructions(void) {
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
    return "AVX-512 VNNI";
#elif defined(__AVX512BW__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "vectors of 128 bits";
#endif
}

/* Two numbers of one row as they lie in memory, the lowest byte first. */
static inline int32_t pair(int16_t even, int16_t odd) { return (uint16_t)even | (int32_t)odd << 16; }

/* Pairs of rows that lie side by side, in a form that compilers vectorise. */
static inline void pack_pairs(const int16_t *even, const int16_t *odd, int width, int32_t *to) {
    for (int r = 0; r < width; r++) to[r] = pair(even[r], odd[r]);
}

/* How many segments of columns of length 1 a panel of `width` rows can be multiplied by, so that their sum fits int32;
   lengths are roots of sums of squares, the longest of any row over any SEGMENT of its pairs. The root of the number,
   rounded down. */
INLINE float reach(const int32_t *panel, int64_t pairs, const int width) {
    int64_t most = 1;
    for (int64_t start = 0; start < pairs; start += SEGMENT) {
        ints squares[2] = {{0}}; /* in units of 128, each rounded up */
        for (int64_t p = start; p < at_most(start + SEGMENT, pairs); p++)
            for (int v = 0; v * LANES < width; v++) {
                ints numbers = ((const ints *)(panel + p * width))[v];
                squares[v] += (dot((ints){0}, numbers, numbers) >> 7) + 1;
            }
        for (int r = 0; r < width; r++) {
            int32_t square = squares[r / LANES][r % LANES];
            most = square > most ? square : most;
        }
    }
    return (float)(sqrt((0x1p31 - 1) / (128.0 * most)) * (1 - 0x1p-20));
}

/* Pairs that lie side by side in their rows. */
INLINE void pack_rows(const int16_t *start, int64_t row, int64_t count, int64_t pairs, const int width, int32_t *to) {
    int64_t r = 0;
#if defined(__x86_64__) /* four of four rows at a time */
    for (; r + 4 <= count; r += 4) {
        const int16_t *from = start + r * row;
        int64_t p = 0;
        for (; p + 4 <= pairs; p += 4) {
            __m128i rows[4], upper[2], lower[2];
            int32_t *at = to + p * width + r;
            for (int i = 0; i < 4; i++) rows[i] = _mm_loadu_si128((const __m128i *)(from + i * row + 2 * p));
            for (int i = 0; i < 2; i++) {
                upper[i] = _mm_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
                lower[i] = _mm_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
            }
            _mm_storeu_si128((__m128i *)at, _mm_unpacklo_epi64(upper[0], upper[1]));
            _mm_storeu_si128((__m128i *)(at + width), _mm_unpackhi_epi64(upper[0], upper[1]));
            _mm_storeu_si128((__m128i *)(at + 2 * width), _mm_unpacklo_epi64(lower[0], lower[1]));
            _mm_storeu_si128((__m128i *)(at + 3 * width), _mm_unpackhi_epi64(lower[0], lower[1]));
        }
        for (; p < pairs; p++)
            for (int i = 0; i < 4; i++) memcpy(to + p * width + r + i, from + i * row + 2 * p, sizeof *to);
    }
#endif
    for (; r < count; r++)
        for (int64_t p = 0; p < pairs; p++) memcpy(to + p * width + r, start + r * row + 2 * p, sizeof *to);
}

/* Lay `count` rows, `width` at a time, as [panel][pair][row], what is missing as zero. Room for one pair more after each
   panel begins with its `reach`. Whole vectors of rows that lie side by side end in the pair after. */
INLINE void pack(const operand *from, const int16_t *start, int64_t count, int64_t length, const int width,
                 int32_t *to) {
    int64_t row = from->outer, depth = from->depth, pairs = (length + 1) / 2, whole = length / 2;
    for (int64_t first = 0; first < count; first += width, start += width * row, to += (pairs + 1) * width) {
        int64_t present = at_most(width, count - first);
        if (present < width) memset(to, 0, pairs * width * sizeof *to);
        if (depth == 1) pack_rows(start, row, present, whole, width, to);
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
        float reached = reach(to, pairs, width);
        memcpy(to + pairs * width, &reached, sizeof reached);
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
#endif

/* Not unrolled: all sums and operands of one pair just fit into the registers. */
INLINE void add_pairs(ints sums[ROWS][2], const int32_t *left, const int32_t *right, const int64_t pairs) {
#pragma GCC unroll 1
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

/* Whether any lane is below zero. */
static inline int any_negative(ints lanes) {
#if defined(__AVX512BW__)
    return _mm512_cmplt_epi32_mask((__m512i)lanes, _mm512_setzero_si512()) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < LANES; i++) found |= lanes[i];
    return found < 0;
#endif
}

/* Below zero in the lanes where int32 does not hold a + b. */
static inline ints lost(ints a, ints b, ints sum) { return (sum ^ a) & (sum ^ b); }

/* Count in `high` how often 2^32 is missing in `low` since `sums` were added to it. */
static __attribute__((noinline)) void carry(const ints sums[ROWS][2], ints high[ROWS][2], const ints low[ROWS][2]) {
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < 2; j++) {
            ints one = sums[i][j], total = low[i][j];
            high[i][j] += lost(total - one, one, total) >> 31 & (one >> 31 | 1);
        }
}

INLINE void copy(const ints from[ROWS][2], ints to[ROWS][2]) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
        to[i][0] = from[i][0];
        to[i][1] = from[i][1];
    }
}

/* Add sums to `low`, and what exceeds int32 to `high`, which is empty unless `is_wide`; return whether it is now. */
INLINE int add_sums(const ints sums[ROWS][2], ints high[ROWS][2], ints low[ROWS][2], int is_wide) {
    ints over = {0};
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            ints total = low[i][j] + sums[i][j];
            over |= lost(low[i][j], sums[i][j], total);
            low[i][j] = total;
        }
    if (!any_negative(over)) return is_wide;
    ints added[ROWS][2]; /* sums themselves stay in registers, since nothing wants their address */
    copy(sums, added);
    if (!is_wide) memset(high, 0, sizeof added);
    carry(added, high, low);
    return 1;
}

/* Pairs that may be added in int32: `least`, which any numbers allow, or as many as these two panels do. No sum exceeds
   the product of both lengths (Cauchy-Schwarz), and one on the way to it may, for int32 wraps. */
static int64_t stretch(const int32_t *left, const int32_t *right, int64_t pairs, int64_t least) {
    float rows, columns;
    memcpy(&rows, left + pairs * ROWS, sizeof rows);
    memcpy(&columns, right + pairs * COLUMNS, sizeof columns);
    int64_t most = (int64_t)((double)rows * columns) * SEGMENT;
    return most > least ? most : least;
}

/* The product of one panel of each side, in stretches of pairs: `low`, and 2^32 times `high` where this returns 1. */
static int tile(const int32_t *left, const int32_t *right, int64_t pairs, int64_t least, ints high[ROWS][2],
                ints low[ROWS][2]) {
    int64_t p = 0, most = stretch(left, right, pairs, least);
    int is_wide = 0;
    do {
        ints sums[ROWS][2] = {{{0}}};
        add_pairs(sums, left + p * ROWS, right + p * COLUMNS, at_most(most, pairs - p));
        if (p)
            is_wide = add_sums(sums, high, low, is_wide);
        else
            copy(sums, low);
    } while ((p += most) < pairs);
    return is_wide;
}

/* Bring the cache lines of a tile's way out near, or its rows, which lie far apart, would be waited for. */
static void await_rows(const task *t, int64_t matrix, int64_t row, int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row), place = (matrix * t->rows + row) * t->columns + column;
    for (int64_t i = 0; i < rows; i++, place += t->columns)
        __builtin_prefetch(t->exact ? (void *)(t->exact + place) : (void *)(t->scaled + place), 1);
}

static void write_low(const task *t, const int32_t *low, int64_t matrix, int64_t row, int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row), columns = at_most(COLUMNS, t->columns - column);
    const double *left = t->left_scale + matrix * t->rows + row, *right = t->right_scale + matrix * t->columns + column;
    int narrow = are_narrow(t, matrix, row, rows, column, columns);
    float *to = result_row(t, matrix, row, column), scales[COLUMNS];
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
        for (int j = 0; j < COLUMNS; j++) sums[j] = high[j] * 0x1p32 + low[j];
        write_row(t, matrix, row + i, column, sums, COLUMNS);
    }
}

static int64_t row_bytes(const task *t) { return ((t->depth + 1) / 2 + 1) * 4; }

static int64_t column_bytes(const task *t) { return row_bytes(t); }

static int64_t work_bytes(const task *t, int64_t rows) { return rows * row_bytes(t); }

static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, void *packed) {
    const int16_t *start = t->right.start + matrix * t->right.batch + first * t->right.outer;
    pack(&t->right, start, count, t->depth, COLUMNS, (int32_t *)packed + first * ((t->depth + 1) / 2 + 1));
}

static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const void *packed, void *work) {
    int64_t pairs = (t->depth + 1) / 2;
    const int32_t *left = work, *right = packed;
    ints high[ROWS][2], low[ROWS][2];
    pack(&t->left, t->left.start + matrix * t->left.batch + first * t->left.outer, count, t->depth, ROWS, work);
    for (int64_t column = 0; column < t->columns; column += COLUMNS)
        for (int64_t row = 0; row < count; row += ROWS) {
            const int32_t *a = left + row * (pairs + 1), *b = right + column * (pairs + 1);
            await_rows(t, matrix, first + row, column);
            if (tile(a, b, pairs, t->run / 2, high, low))
                write_wide(t, (int32_t *)high, (int32_t *)low, matrix, first + row, column);
            else
                write_low(t, (int32_t *)low, matrix, first + row, column);
        }
}
