/* Exact products on int8 tiles, scaled and rounded to float32 once. Numbers of up to 14 bits are high * 2^7 + low, and
   three products of int8 make theirs (Karatsuba's trick): high by high, low by low, and sum by sum; numbers of up to
   8 bits need one. Compiled on the machine that runs it (int8.py) and certified there before use.

   Panels hold, for every plane, runs of STEP numbers along the sum: [run][group][row][number of the group], where the
   instructions of the processor say how long a group is. */
#if defined(PORTABLE_TILES) /* which tests define */
#elif defined(__AMX_INT8__) || defined(__AMXINT8__)
#define AMX_TILES
#pragma GCC target("prefer-vector-width=512") /* half the instructions on the way out */
#include <immintrin.h>
#elif defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_DOTPROD)
#define ARM_TILES
#include <arm_neon.h>
#endif

#if defined(ARM_TILES)
/* Sums in 24 of 32 registers; an instruction takes words of four numbers, or with products of matrices of eight. */
enum { ROWS = 8, COLUMNS = 12, STEP = 64 };
#if defined(__ARM_FEATURE_MATMUL_INT8)
enum { LEFT_GROUP = 8, RIGHT_GROUP = 8 };
#else
enum { LEFT_GROUP = 4, RIGHT_GROUP = 4 };
#endif
#else
/* Four tiles of 16 x 16 sums: each tile of an operand is loaded once for two products. */
enum { ROWS = 32, COLUMNS = 32, STEP = 64, LEFT_GROUP = 64, RIGHT_GROUP = 4 };
#endif

/* Half of the second cache level; a panel of columns takes a part of the other. */
#if defined(ARM_TILES)
static const int64_t cached_bytes = 1 << 18;
#else
static const int64_t cached_bytes = 1 << 20;
#endif
static const int64_t tile_rows = ROWS, tile_columns = COLUMNS;

const char *instructions(void) {
#if defined(AMX_TILES)
    return "AMX";
#elif defined(ARM_TILES) && defined(__ARM_FEATURE_MATMUL_INT8)
    return "i8mm";
#elif defined(ARM_TILES)
    return "dot products";
#else
    return 0;
#endif
}

/* Before and after a thread's tiles: their shapes, eight of 16 rows of 64 bytes; nothing to save once released. */
static void open_tiles(void) {
#if defined(AMX_TILES)
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shapes);
#endif
}

static void close_tiles(void) {
#if defined(AMX_TILES)
    _tile_release();
#endif
}

/* sums[ROWS][COLUMNS] = the product of `steps` runs of one plane of a panel of each side, all within -128..127. */
static void tile(const int8_t *left, const int8_t *right, int64_t steps, int32_t *sums) {
#if defined(AMX_TILES)
    enum { ROW = COLUMNS * 4, UPPER = 16 * COLUMNS };
    __asm__ volatile("" ::: "memory"); /* gcc does not know that tiles read memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; steps > 0; steps--, left += ROWS * STEP, right += COLUMNS * STEP) {
        _tile_loadd(4, left, STEP);
        _tile_loadd(6, right, COLUMNS * RIGHT_GROUP);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, right + 64, COLUMNS * RIGHT_GROUP);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, left + 16 * STEP, STEP);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums, ROW);
    _tile_stored(1, sums + 16, ROW);
    _tile_stored(2, sums + UPPER, ROW);
    _tile_stored(3, sums + UPPER + 16, ROW);
#elif defined(__ARM_FEATURE_MATMUL_INT8) && defined(ARM_TILES)
    int32x4_t parts[ROWS / 2][COLUMNS / 2]; /* two rows of two sums */
    memset(parts, 0, sizeof parts);
    for (int64_t k = 0; k < steps * STEP; k += 8, left += ROWS * 8, right += COLUMNS * 8) {
        int8x16_t a[ROWS / 2];
#pragma GCC unroll 16
        for (int i = 0; i < ROWS / 2; i++) a[i] = vld1q_s8(left + 16 * i);
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 2; j++) {
            int8x16_t b = vld1q_s8(right + 16 * j);
#pragma GCC unroll 16
            for (int i = 0; i < ROWS / 2; i++) parts[i][j] = vmmlaq_s32(parts[i][j], a[i], b);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS / 2; i++, sums += 2 * COLUMNS)
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 2; j++) {
            vst1_s32(sums + 2 * j, vget_low_s32(parts[i][j]));
            vst1_s32(sums + COLUMNS + 2 * j, vget_high_s32(parts[i][j]));
        }
#elif defined(ARM_TILES)
    int32x4_t parts[ROWS][COLUMNS / 4];
    memset(parts, 0, sizeof parts);
    for (int64_t k = 0; k < steps * STEP; k += 4, left += ROWS * 4, right += COLUMNS * 4) {
        int8x16_t upper = vld1q_s8(left), lower = vld1q_s8(left + 16);
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 4; j++) {
            int8x16_t b = vld1q_s8(right + 16 * j);
            parts[0][j] = vdotq_laneq_s32(parts[0][j], b, upper, 0);
            parts[1][j] = vdotq_laneq_s32(parts[1][j], b, upper, 1);
            parts[2][j] = vdotq_laneq_s32(parts[2][j], b, upper, 2);
            parts[3][j] = vdotq_laneq_s32(parts[3][j], b, upper, 3);
            parts[4][j] = vdotq_laneq_s32(parts[4][j], b, lower, 0);
            parts[5][j] = vdotq_laneq_s32(parts[5][j], b, lower, 1);
            parts[6][j] = vdotq_laneq_s32(parts[6][j], b, lower, 2);
            parts[7][j] = vdotq_laneq_s32(parts[7][j], b, lower, 3);
        }
    }
    memcpy(sums, parts, sizeof parts);
#else
    memset(sums, 0, sizeof *sums * ROWS * COLUMNS);
    for (int64_t k = 0; k < steps * STEP; k += RIGHT_GROUP, right += COLUMNS * RIGHT_GROUP)
        for (int i = 0; i < ROWS; i++) {
            const int8_t *a = left + (k / LEFT_GROUP * ROWS + i) * LEFT_GROUP + k % LEFT_GROUP;
            for (int j = 0; j < COLUMNS; j++)
                for (int n = 0; n < RIGHT_GROUP; n++) sums[i * COLUMNS + j] += a[n] * right[j * RIGHT_GROUP + n];
        }
#endif
}

static int plane_count(const task *t) { return t->bits > 8 ? 3 : 1; }

static int64_t padded(int64_t depth) { return round_up(depth + !depth, STEP); }

/* Bytes of the sums of a block of rows between two runs, where there are two. */
static int64_t kept_bytes(const task *t, int64_t rows) {
    return t->depth > t->run ? rows * round_up(t->columns, COLUMNS) * (int64_t)sizeof(double) : 0;
}

/* The planes of numbers side by side, each `apart` from the one before: high, low and their sum, or the number itself. */
static inline void split(const int16_t *q, int64_t count, int planes, int8_t *to, int64_t apart) {
    for (int64_t n = 0; n < count; n++) {
        int16_t high = (int16_t)(q[n] + 64) >> 7, low = q[n] - (int16_t)(high << 7);
        if (planes == 1) {
            to[n] = q[n];
        } else {
            to[n] = high;
            to[apart + n] = low;
            to[2 * apart + n] = high + low;
        }
    }
}

/* Two columns of bytes side by side, and two of pairs of bytes: the first of each comes first in memory. */
static inline void zip_bytes(const int8_t *a, const int8_t *b, int count, uint16_t *to) {
    for (int n = 0; n < count; n++) to[n] = (uint16_t)((uint8_t)a[n] | (uint8_t)b[n] << 8);
}

static inline void zip_pairs(const uint16_t *a, const uint16_t *b, int count, uint32_t *to) {
    for (int n = 0; n < count; n++) to[n] = a[n] | (uint32_t)b[n] << 16;
}

/* Words of four numbers, [rows][columns] to [columns][rows], two by two. */
static inline void transpose(const uint32_t *from, int rows, int columns, uint32_t *to) {
    for (int c = 0; c < columns; c += 2)
#pragma clang loop vectorize(disable) /* strided stores, twice as slow */
        for (int r = 0; r < rows; r += 2) {
            uint64_t upper, lower, left, right;
            memcpy(&upper, from + r * columns + c, 8);
            memcpy(&lower, from + (r + 1) * columns + c, 8);
            left = (uint32_t)upper | lower << 32;
            right = upper >> 32 | lower >> 32 << 32;
            memcpy(to + c * rows + r, &left, 8);
            memcpy(to + (c + 1) * rows + r, &right, 8);
        }
}

/* Words of four numbers, `row` and `word` apart, to groups of two words: [words / 2][rows][2]. */
static inline void join(const uint32_t *from, int row, int word, int rows, int words, uint32_t *to) {
    for (int k = 0; k < words; k += 2)
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < 2; n++) *to++ = from[r * row + (k + n) * word];
}

/* A run of a panel of `width` rows by STEP numbers, whole, where numbers lie side by side or rows do. Its words of four
   numbers come as they lie in memory; groups of four are words by row, groups of STEP words by word of the row. */
static inline void pack_run(const int16_t *from, int64_t row, int64_t depth, int width, int group, int planes,
                            int8_t *to, int64_t apart) {
    enum { WORDS = STEP / 4, MOST = (ROWS > COLUMNS ? ROWS : COLUMNS) * WORDS };
    uint32_t words[3][MOST];
    if (depth == 1) {
        for (int r = 0; r < width; r++)
            split(from + r * row, STEP, planes, (int8_t *)words[0] + r * STEP, sizeof words[0]);
    } else {
        int8_t bytes[4][3][MOST / WORDS];
        uint16_t pairs[2][MOST / WORDS];
        for (int k = 0; k < WORDS; k++) {
            for (int n = 0; n < 4; n++)
                split(from + (4 * k + n) * depth, width, planes, bytes[n][0], sizeof bytes[n][0]);
            for (int plane = 0; plane < planes; plane++) {
                zip_bytes(bytes[0][plane], bytes[1][plane], width, pairs[0]);
                zip_bytes(bytes[2][plane], bytes[3][plane], width, pairs[1]);
                zip_pairs(pairs[0], pairs[1], width, words[plane] + k * width);
            }
        }
    }
    for (int plane = 0; plane < planes; plane++, to += apart) {
        if (group == (depth == 1 ? STEP : 4))
            memcpy(to, words[plane], width * STEP);
        else if (group == 8)
            join(words[plane], depth == 1 ? WORDS : 1, depth == 1 ? 1 : width, width, WORDS, (uint32_t *)to);
        else if (depth == 1)
            transpose(words[plane], width, WORDS, (uint32_t *)to);
        else
            transpose(words[plane], WORDS, width, (uint32_t *)to);
    }
}

/* The same of `rows` by `length` numbers in any layout; what is missing is zero. */
static inline void pack_ragged(const int16_t *from, int64_t row, int64_t depth, int64_t rows, int64_t length, int width,
                               int group, int planes, int8_t *to, int64_t apart) {
    int16_t whole[(ROWS > COLUMNS ? ROWS : COLUMNS) * STEP];
    memset(whole, 0, sizeof *whole * width * STEP);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < length; k++) whole[r * STEP + k] = from[r * row + k * depth];
    pack_run(whole, STEP, 1, width, group, planes, to, apart);
}

/* Rows of one operand, `width` to a panel: [panel][plane][run]. */
static inline void pack(const operand *from, const int16_t *first, int64_t count, int64_t length, int width, int group,
                        int planes, int8_t *to) {
    int64_t row = from->outer, depth = from->depth, apart = padded(length) * width;
    for (int64_t r = 0; r < count; r += width, to += planes * apart)
        for (int64_t k = 0; k < padded(length); k += STEP) {
            const int16_t *start = first + r * row + k * depth;
            int8_t *run = to + k * width;
            if (r + width > count || k + STEP > length || (row != 1 && depth != 1))
                pack_ragged(start, row, depth, at_most(width, count - r), at_most(STEP, length - k), width, group,
                            planes, run, apart);
            else if (depth == 1)
                pack_run(start, row, 1, width, group, planes, run, apart);
            else
                pack_run(start, 1, depth, width, group, planes, run, apart);
        }
}

static void pack_left(const task *t, int64_t matrix, int64_t first, int64_t count, int64_t start, int64_t length,
                      int8_t *to) {
    const operand *from = &t->left;
    const int16_t *at = from->start + matrix * from->batch + first * from->outer + start * from->depth;
    if (plane_count(t) == 1)
        pack(from, at, count, length, ROWS, LEFT_GROUP, 1, to);
    else
        pack(from, at, count, length, ROWS, LEFT_GROUP, 3, to);
}

static void pack_right(const task *t, int64_t matrix, int64_t first, int64_t count, int8_t *to) {
    const operand *from = &t->right;
    const int16_t *at = from->start + matrix * from->batch + first * from->outer;
    if (plane_count(t) == 1)
        pack(from, at, count, t->depth, COLUMNS, RIGHT_GROUP, 1, to);
    else
        pack(from, at, count, t->depth, COLUMNS, RIGHT_GROUP, 3, to);
}

/* A run of the product of one panel of each side, as [plane][ROWS][COLUMNS], added to what `kept` holds of the runs
   before, which float64 does exactly. Of a product ab = (2^7 h + l)(2^7 h' + l') what remains beside 2^14 hh' is
   2^7 h'l + l'a, within 2^20, so int32 holds it in sums of 2^11 products, the longest run. */
static void write_tile(const task *t, const int32_t *parts, int64_t matrix, int64_t row, int64_t column, double *kept,
                       int first, int last) {
    int64_t rows = at_most(ROWS, t->rows - row);
    for (int64_t i = 0; i < rows; i++, parts += COLUMNS, kept += COLUMNS) {
        const int32_t *high = parts, *low = high + ROWS * COLUMNS, *both = low + ROWS * COLUMNS;
        double sums[COLUMNS];
        if (plane_count(t) == 1)
            for (int j = 0; j < COLUMNS; j++) sums[j] = high[j];
        else
            for (int j = 0; j < COLUMNS; j++) {
                int32_t rest = 128 * (both[j] - high[j] - low[j]) + low[j];
                sums[j] = high[j] * 16384.0 + rest;
            }
        if (!first)
            for (int j = 0; j < COLUMNS; j++) sums[j] += kept[j];
        if (last)
            write_row(t, matrix, row + i, column, sums, COLUMNS);
        else
            memcpy(kept, sums, sizeof sums);
    }
}

static int64_t row_bytes(const task *t) { return plane_count(t) * padded(at_most(t->run, t->depth)); }

static int64_t column_bytes(const task *t) { return plane_count(t) * padded(t->depth); }

static int64_t work_bytes(const task *t, int64_t rows) { return kept_bytes(t, rows) + rows * row_bytes(t); }

static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, void *packed) {
    pack_right(t, matrix, first, count, (int8_t *)packed + first * column_bytes(t));
}

/* Runs of the sum go one after the other over all columns, so that the panels of one run stay in cache; `work` keeps the
   sums between them. */
static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const void *packed, void *work) {
    int32_t parts[3 * ROWS * COLUMNS] __attribute__((aligned(64)));
    int64_t depth = padded(t->depth), block = round_up(count, ROWS);
    int8_t *left = (int8_t *)work + kept_bytes(t, block);
    open_tiles();
    for (int64_t start = 0; start < depth; start += t->run) {
        int64_t length = at_most(t->run, t->depth - start), across = padded(length), last = start + t->run >= depth;
        pack_left(t, matrix, first, count, start, length, left);
        for (int64_t column = 0; column < t->columns; column += COLUMNS)
            for (int64_t row = 0; row < count; row += ROWS) {
                const int8_t *a = left + row * plane_count(t) * across;
                const int8_t *b = (const int8_t *)packed + column * plane_count(t) * depth + start * COLUMNS;
                for (int plane = 0; plane < plane_count(t); plane++)
                    tile(a + plane * across * ROWS, b + plane * depth * COLUMNS, across / STEP,
                         parts + plane * ROWS * COLUMNS);
                double *kept = (double *)work + column * block + row * COLUMNS;
                write_tile(t, parts, matrix, first + row, column, kept, start == 0, last);
            }
    }
    close_tiles();
}
