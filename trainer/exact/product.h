/* What the compiled exact products share: their operands, the way out, and how a product is shared out among threads.
   c_product.py puts this text before a kernel's, which is int16.c or int8.c.

   Blocked as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): panels of both
   operands are packed in the order in which a tile of sums that stays in registers reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Strides in elements: between matrices of the batch, between rows (left) or columns (right), along the sum. */
typedef struct {
    const int16_t *start;
    int64_t batch, outer, depth;
} operand;

/* `run`: along the sum, the numbers of `bits` bits whose products int32 can add, whatever they are.
   Results are contiguous: `scaled`, or `exact` without scales. */
typedef struct {
    operand left, right;
    int64_t batch, rows, columns, depth, bits, run;
    const double *left_scale, *right_scale;
    float *scaled;
    double *exact;
} task;

/* The instructions that this text was compiled to multiply with, for people, or 0 where it wants some that are missing. */
const char *instructions(void);

/* Rows of the left and columns of the right that a tile of sums takes, and bytes of packed rows that stay in cache. */
static const int64_t tile_rows, tile_columns, cached_bytes;

/* Bytes of one packed row and column, and of what a thread needs to multiply a block of rows. */
static int64_t row_bytes(const task *t);
static int64_t column_bytes(const task *t);
static int64_t work_bytes(const task *t, int64_t rows);

/* Columns of one matrix from `first` on, packed at their place. */
static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, void *packed);

/* Rows of one matrix from `first` on, against all of its packed columns. */
static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const void *packed, void *work);

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

static void *memory(int64_t bytes) { return aligned_alloc(64, round_up(bytes + 64, 64)); }

/* A place in the result that is rounded, where there is one. */
static inline float *result_row(const task *t, int64_t matrix, int64_t row, int64_t column) {
    return t->scaled + (matrix * t->rows + row) * t->columns + column;
}

/* Whether float32 scales these rows and columns of sums, once rounded, as float64 does, with one rounding: scales, which
   are powers of two, and their products are normal numbers, and nothing overflows before the last of them. */
static int are_narrow(const task *t, int64_t matrix, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    if (t->exact) return 0;
    const double *left = t->left_scale + matrix * t->rows + row, *right = t->right_scale + matrix * t->columns + column;
    double least = 1, most = 1;
    int narrow = 1;
    for (int64_t i = 0; i < rows; i++) {
        least = left[i] < least ? left[i] : least;
        most = left[i] > most ? left[i] : most;
    }
    for (int64_t j = 0; j < columns; j++) narrow &= right[j] >= 0x1p-126 / least;
    return narrow && least >= 0x1p-126 && most <= 0x1p74;
}

/* A row of a tile on its way out, rounded once: sums stay below 2^53 and scales within 2^-163..2^127. */
static inline void write_row(const task *t, int64_t matrix, int64_t row, int64_t column, const double *sums,
                             int64_t width) {
    int64_t columns = at_most(width, t->columns - column), place = (matrix * t->rows + row) * t->columns + column;
    if (t->exact) {
        memcpy(t->exact + place, sums, columns * sizeof *sums);
        return;
    }
    double left = t->left_scale[matrix * t->rows + row];
    const double *right = t->right_scale + matrix * t->columns + column;
    float *to = result_row(t, matrix, row, column);
    if (columns == width)
        for (int64_t j = 0; j < width; j++) to[j] = (float)(sums[j] * left * right[j]);
    else
        for (int64_t j = 0; j < columns; j++) to[j] = (float)(sums[j] * left * right[j]);
}

/* Rows whose packed form stays in cache, in blocks of equal size, as many for each thread as for another. */
static int64_t block_rows(const task *t, int threads) {
    int64_t cached = cached_bytes / (row_bytes(t) + 1), blocks = t->rows / (cached + 1) + 1;
    return round_up((t->rows - 1) / round_up(blocks, threads) + 1, tile_rows);
}

/* Returns 0, or 1 without memory. Large batches are shared out matrix by matrix, others by columns, then rows. */
int product(const task *t, int threads) {
    if (!t->batch || !t->rows || !t->columns) return 0;
    int64_t packed_bytes = round_up(t->columns, tile_columns) * column_bytes(t);
    int whole = t->batch >= threads, failed = 0;
    int64_t block = block_rows(t, whole ? 1 : threads);
    void *shared = whole ? 0 : memory(packed_bytes);
    if (!whole && !shared) return 1;
#pragma omp parallel num_threads(threads)
    {
        void *work = memory(work_bytes(t, block)), *packed = whole ? memory(packed_bytes) : shared;
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
            for (int64_t column = 0; column < t->columns; column += tile_columns)
                pack_columns(t, matrix, column, at_most(tile_columns, t->columns - column), packed);
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
