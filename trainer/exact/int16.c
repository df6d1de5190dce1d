/* Exact products of int16 matrices: pairs of products summed in int32, emptied before they can overflow, and scaled
   and rounded to float32 once. Compiled on the machine that runs it (compiled.py) and certified there before use.

   Blocked as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): panels of both
   operands are packed in the order in which a tile of sums that stays in registers reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__) || defined(WIDE_TILES) /* WIDE_TILES: tests try the widest tiles on any processor */
enum { LANES = 16, ROWS = 12 };
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 6 };
#else
enum { LANES = 4, ROWS = 6 };
#endif
enum { COLUMNS = 2 * LANES, BLOCK_BYTES = 1 << 17 };

typedef int32_t ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Strides in elements: between matrices of the batch, between rows (left) or columns (right), along the sum. */
typedef struct {
    const int16_t *start;
    int64_t batch, outer, depth;
} operand;

/* `flush`: pairs whose sum int32 holds above 16 bits. Results are contiguous: `scaled`, or `exact` without scales. */
typedef struct {
    operand left, right;
    int64_t batch, rows, columns, depth, flush;
    const double *left_scale, *right_scale;
    float *scaled;
    double *exact;
} task;

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static void *memory(int64_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

/* Two numbers of one row in the order of memory. */
static inline int32_t pair(int16_t even, int16_t odd) {
    const int16_t both[2] = {even, odd};
    int32_t result;
    memcpy(&result, both, sizeof result);
    return result;
}

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

/* high * 2^16 + low = the product of one panel of each side. A sum enters each run of `flush` pairs as 0..2^16-1, its
   upper half moved to `high`, so that no run overflows. */
static void tile(const int32_t *left, const int32_t *right, int64_t pairs, int64_t flush, int32_t *high,
                 int32_t *low) {
    ints sums[ROWS][2] = {{{0}}};
    memset(high, 0, sizeof *high * ROWS * COLUMNS);
    for (int64_t p = 0; p < pairs;) {
        for (int64_t stop = at_most(p + flush, pairs); p < stop; p++) {
            const ints *b = (const ints *)(right + p * COLUMNS);
            ints b0 = b[0], b1 = b[1];
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; i++) {
                ints a = left[p * ROWS + i] - (ints){0};
                sums[i][0] = dot(sums[i][0], a, b0);
                sums[i][1] = dot(sums[i][1], a, b1);
            }
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

/* Sums stay below 2^53 and scales within 2^-163..2^127, so only the conversion to float32 rounds. */
static void write_tile(const task *t, const int32_t *high, const int32_t *low, int64_t matrix, int64_t row,
                       int64_t column) {
    int64_t rows = at_most(ROWS, t->rows - row), columns = at_most(COLUMNS, t->columns - column);
    for (int64_t i = 0; i < rows; i++, high += COLUMNS, low += COLUMNS) {
        int64_t place = (matrix * t->rows + row + i) * t->columns + column;
        double sums[COLUMNS];
        for (int64_t j = 0; j < COLUMNS; j++) sums[j] = high[j] * 65536.0 + low[j];
        if (t->exact) {
            memcpy(t->exact + place, sums, columns * sizeof *sums);
            continue;
        }
        double left = t->left_scale[matrix * t->rows + row + i];
        const double *right = t->right_scale + matrix * t->columns + column;
        float *to = t->scaled + place;
        if (columns == COLUMNS)
            for (int64_t j = 0; j < COLUMNS; j++) to[j] = (float)(sums[j] * left * right[j]);
        else
            for (int64_t j = 0; j < columns; j++) to[j] = (float)(sums[j] * left * right[j]);
    }
}

/* Columns of one matrix from `first` on, packed at their place. */
static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, int32_t *packed) {
    const int16_t *start = t->right.start + matrix * t->right.batch + first * t->right.outer;
    pack(&t->right, start, count, t->depth, COLUMNS, packed + first * ((t->depth + 1) / 2));
}

/* Rows of one matrix from `first` on, against all of its packed columns. */
static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const int32_t *packed,
                          int32_t *work) {
    int64_t pairs = (t->depth + 1) / 2;
    int32_t high[ROWS * COLUMNS], low[ROWS * COLUMNS];
    pack(&t->left, t->left.start + matrix * t->left.batch + first * t->left.outer, count, t->depth, ROWS, work);
    for (int64_t column = 0; column < t->columns; column += COLUMNS)
        for (int64_t row = 0; row < count; row += ROWS) {
            tile(work + row * pairs, packed + column * pairs, pairs, t->flush, high, low);
            write_tile(t, high, low, matrix, first + row, column);
        }
}

/* Rows whose packed form takes a share of the second cache level, and few enough that every thread gets some. */
static int64_t block_rows(const task *t, int threads) {
    int64_t cached = BLOCK_BYTES / (2 * (t->depth + 1)), share = (t->rows + threads - 1) / threads;
    return (at_most(cached, share) + ROWS) / ROWS * ROWS;
}

/* Returns 0, or 1 without memory. Large batches are shared out matrix by matrix, others by columns, then rows. */
int int16_product(const task *t, int threads) {
    int64_t block = block_rows(t, threads), packed_bytes = (t->columns + COLUMNS) * (t->depth + 1) * 2;
    int whole = t->batch >= threads, failed = 0;
    int32_t *shared = whole ? 0 : memory(packed_bytes);
    if (!whole && !shared) return 1;
#pragma omp parallel num_threads(threads)
    {
        int32_t *work = memory(block * (t->depth + 1) * 2), *packed = whole ? memory(packed_bytes) : shared;
        if (!work || !packed) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed && whole) {
#pragma omp for schedule(dynamic)
            for (int64_t matrix = 0; matrix < t->batch; matrix++) {
                pack_columns(t, matrix, 0, t->columns, packed);
                for (int64_t row = 0; row < t->rows; row += block)
                    multiply_rows(t, matrix, row, at_most(block, t->rows - row), packed, work);
            }
        }
        for (int64_t matrix = 0; !failed && !whole && matrix < t->batch; matrix++) {
#pragma omp for
            for (int64_t column = 0; column < t->columns; column += COLUMNS)
                pack_columns(t, matrix, column, at_most(COLUMNS, t->columns - column), packed);
#pragma omp for schedule(dynamic)
            for (int64_t row = 0; row < t->rows; row += block)
                multiply_rows(t, matrix, row, at_most(block, t->rows - row), packed, work);
        }
        free(work);
        if (whole) free(packed);
    }
    free(shared);
    return failed;
}
