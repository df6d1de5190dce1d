/* Exact products on int8 tiles, scaled and rounded to float32 once. Numbers of up to 14 bits are high * 2^7 + low, and
   three products of int8 make theirs (Karatsuba's trick): high by high, low by low, and sum by sum; numbers of up to
   8 bits need one. Compiled on the machine that runs it (int8.py) and certified there before use. */
static const int64_t tile_rows = ROWS, tile_columns = COLUMNS;

static int plane_count(const task *t) { return t->bits > 8 ? 3 : 1; }

static int64_t padded(int64_t depth) { return round_up(depth + !depth, STEP); }

/* Bytes of the sums of a block of rows between two runs, where there are two. */
static int64_t kept_bytes(const task *t, int64_t rows) {
    return t->depth > t->run ? rows * round_up(t->columns, COLUMNS) * (int64_t)sizeof(double) : 0;
}

#if !defined(WIDE_PACKING)
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
#endif

/* The same of `rows` by `length` numbers in any layout; what is missing is zero. */
static inline void pack_ragged(const int16_t *from, int64_t row, int64_t depth, int64_t rows, int64_t length, int width,
                               int group, int planes, int8_t *to, int64_t apart) {
    int16_t whole[(ROWS > COLUMNS ? ROWS : COLUMNS) * STEP];
    memset(whole, 0, sizeof *whole * width * STEP);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < length; k++) whole[r * STEP + k] = from[r * row + k * depth];
    pack_run(whole, STEP, 1, width, group, planes, to, apart);
}

/* Rows of one operand, `panel` to a panel, of which a tile takes `width`: [panel][plane][run][tile]. */
static inline void pack(const operand *from, const int16_t *first, int64_t count, int64_t length, int panel, int width,
                        int group, int planes, int8_t *to) {
    int64_t row = from->outer, depth = from->depth, apart = padded(length) * panel;
    int64_t across = round_up(count, panel) / width, along = padded(length) / STEP;
    for (int64_t n = 0; n < across * along; n++) {
        /* in the order in which numbers lie in memory */
        int64_t r = (depth == 1 ? n / along : n % across) * width, k = (depth == 1 ? n % along : n / across) * STEP;
        const int16_t *start = first + r * row + k * depth;
        int8_t *run = to + r / panel * planes * apart + k * panel + r % panel * STEP;
        if (r + width > count || k + STEP > length || (row != 1 && depth != 1))
            pack_ragged(start, row, depth, at_most(width, count - r), at_most(STEP, length - k), width, group, planes,
                        run, apart);
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
        pack(from, at, count, length, ROWS, LEFT_WIDTH, LEFT_GROUP, 1, to);
    else
        pack(from, at, count, length, ROWS, LEFT_WIDTH, LEFT_GROUP, 3, to);
}

static void pack_right(const task *t, int64_t matrix, int64_t first, int64_t count, int8_t *to) {
    const operand *from = &t->right;
    const int16_t *at = from->start + matrix * from->batch + first * from->outer;
    if (plane_count(t) == 1)
        pack(from, at, count, t->depth, COLUMNS, RIGHT_WIDTH, RIGHT_GROUP, 1, to);
    else
        pack(from, at, count, t->depth, COLUMNS, RIGHT_WIDTH, RIGHT_GROUP, 3, to);
}

/* Sums of a panel of each side on their way out, row by row. */
struct leaving {
    const task *t;
    const int32_t *parts;        /* [plane][ROWS][COLUMNS] */
    int64_t matrix, row, column; /* of the result */
    int64_t next, rows, pace;    /* the row that leaves next, how many there are, and how many go at a time */
    int first, last, streams;    /* whether this is the first or the last run of the sum; whether it passes the caches */
    double *kept;                /* [ROWS][COLUMNS], of the runs before */
    const float *scales;         /* of the columns, where float32 scales, else 0 */
    const float *coming;         /* where the next ones go */
};

/* A row that float32 scales: rounded first, where int32 holds all its sums by one conversion. */
static inline void leave_narrow(const leaving *out, const int32_t *high, float *to) {
    const int32_t *low = high + ROWS * COLUMNS, *both = low + ROWS * COLUMNS;
    float left = (float)out->t->left_scale[out->matrix * out->t->rows + out->row + out->next];
    float row[COLUMNS] __attribute__((aligned(64)));
    int32_t rest[COLUMNS], over = 0;
    if (plane_count(out->t) == 1) {
        for (int j = 0; j < COLUMNS; j++) row[j] = (float)high[j] * left * out->scales[j];
    } else {
        for (int j = 0; j < COLUMNS; j++) {
            rest[j] = 128 * (both[j] - high[j] - low[j]) + low[j];
            over |= (high[j] + (1 << 16)) >> 17 | (rest[j] + (1 << 30)) >> 31;
        }
        if (over)
            for (int j = 0; j < COLUMNS; j++) row[j] = (float)(high[j] * 16384.0 + rest[j]) * left * out->scales[j];
        else
            for (int j = 0; j < COLUMNS; j++) row[j] = (float)(high[j] * 16384 + rest[j]) * left * out->scales[j];
    }
    if (out->streams)
        stream_row(row, to);
    else
        memcpy(to, row, sizeof row);
}

/* A row, added to what `kept` holds of the runs before, which float64 does exactly. Of a product
   ab = (2^7 h + l)(2^7 h' + l') what remains beside 2^14 hh' is 2^7 h'l + l'a, within 2^20, so int32 holds it in sums of
   2^11 products, the longest run. */
static void leave_wide(const leaving *out, const int32_t *high) {
    const int32_t *low = high + ROWS * COLUMNS, *both = low + ROWS * COLUMNS;
    double sums[COLUMNS], *kept = out->kept + out->next * COLUMNS;
    if (plane_count(out->t) == 1)
        for (int j = 0; j < COLUMNS; j++) sums[j] = high[j];
    else
        for (int j = 0; j < COLUMNS; j++) {
            int32_t rest = 128 * (both[j] - high[j] - low[j]) + low[j];
            sums[j] = high[j] * 16384.0 + rest;
        }
    if (!out->first)
        for (int j = 0; j < COLUMNS; j++) sums[j] += kept[j];
    if (out->last)
        write_row(out->t, out->matrix, out->row + out->next, out->column, sums, COLUMNS);
    else
        memcpy(kept, sums, sizeof sums);
}

/* A few rows, whose cache lines were asked for while the tile before left. */
static inline __attribute__((always_inline)) void leave_some(leaving *out) {
    const task *t = out->t;
    for (int64_t n = 0; n < out->pace && out->next < out->rows; n++, out->next++) {
        const int32_t *high = out->parts + out->next * COLUMNS;
        if (!out->streams)
            for (int j = 0; j < COLUMNS; j += 16) __builtin_prefetch(out->coming + out->next * t->columns + j, 1);
        if (out->scales)
            leave_narrow(out, high, result_row(t, out->matrix, out->row + out->next, out->column));
        else
            leave_wide(out, high);
    }
}

static void leave_all(leaving *out) {
    out->pace = out->rows;
    leave_some(out);
}

static int64_t row_bytes(const task *t) { return plane_count(t) * padded(at_most(t->run, t->depth)); }

static int64_t column_bytes(const task *t) { return plane_count(t) * padded(t->depth); }

static int64_t work_bytes(const task *t, int64_t rows) { return kept_bytes(t, rows) + rows * row_bytes(t); }

static void pack_columns(const task *t, int64_t matrix, int64_t first, int64_t count, void *packed) {
    pack_right(t, matrix, first, count, (int8_t *)packed + first * column_bytes(t));
}

/* The sums of one run of a panel of each side, while those before leave. */
static void form(const task *t, const int8_t *left, const int8_t *right, int64_t across, int32_t *parts, leaving *out) {
    int64_t planes = plane_count(t), steps = across / STEP;
    int64_t times = LEAVES * planes * steps;
    out->pace = (out->rows + times - 1) / times;
    for (int plane = 0; plane < planes; plane++)
        tile(left + plane * across * ROWS, right + plane * padded(t->depth) * COLUMNS, steps,
             parts + plane * ROWS * COLUMNS, out);
    leave_all(out);
}

/* Whether results go past the caches, which do not hold them: whole lines, and of a matrix whose rows lie 2^n apart many
   would want the same place. */
static int may_stream(const task *t) {
    return !t->exact && (uintptr_t)t->scaled % 64 == 0 && t->columns % 16 == 0 &&
           t->batch * t->rows * t->columns * (int64_t)sizeof(float) > cached_bytes;
}

/* Runs of the sum go one after the other over all columns, so that the panels of one run stay in cache; `work` keeps the
   sums between them. */
static void multiply_rows(const task *t, int64_t matrix, int64_t first, int64_t count, const void *packed, void *work) {
    int32_t parts[2][3 * ROWS * COLUMNS] __attribute__((aligned(64)));
    float scales[2][COLUMNS];
    int64_t depth = padded(t->depth), block = round_up(count, ROWS), turn = 0;
    int8_t *left = (int8_t *)work + kept_bytes(t, block);
    int narrow = t->depth <= t->run && are_narrow(t, matrix, first, count, 0, t->columns), streams = may_stream(t);
    leaving out = {t, .pace = 0};
    open_tiles();
    for (int64_t start = 0; start < depth; start += t->run) {
        int64_t length = at_most(t->run, t->depth - start), across = padded(length);
        pack_left(t, matrix, first, count, start, length, left);
        for (int64_t column = 0; column < t->columns; column += COLUMNS) {
            const int8_t *right = (const int8_t *)packed + column * column_bytes(t) + start * COLUMNS;
            int scaled = narrow && column + COLUMNS <= t->columns, side = column / COLUMNS % 2;
            for (int j = 0; scaled && j < COLUMNS; j++)
                scales[side][j] = (float)t->right_scale[matrix * t->columns + column + j];
            for (int64_t row = 0; row < count; row += ROWS, turn = !turn) {
                out.coming = result_row(t, matrix, first + row, column);
                form(t, left + row * plane_count(t) * across, right, across, parts[turn], &out);
                out = (leaving){
                    t, parts[turn], matrix, first + row, column, 0, at_most(ROWS, count - row), 0, start == 0,
                    start + t->run >= depth, streams, (double *)work + column * block + row * COLUMNS,
                    scaled ? scales[side] : 0, 0,
                };
            }
        }
    }
    leave_all(&out);
    close_tiles();
}
